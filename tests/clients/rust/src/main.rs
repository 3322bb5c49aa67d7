//! Reads a live stream with the library that `LIBRARY` names, until that gives up.

use std::env::var;

use futures_util::StreamExt;

fn print_event(kind: &str, data: &str) {
    match kind {
        "post" => {
            let post: serde_json::Value = serde_json::from_str(data).expect("JSON");
            println!("event {}", post["content"].as_str().expect("a post"));
        }
        _ => println!("event unnamed"),
    }
}

/// The same for both versions.
macro_rules! eventsource_client {
    ($library:ident, $url:expr, $token:expr) => {{
        use $library::{Client, ClientBuilder, SSE};
        let client = ClientBuilder::for_url($url).expect("a URL");
        let client = client.header("authorization", $token).expect("a header");
        let client = client.build_http();
        let mut stream = Box::pin(client.stream());
        while let Some(item) = stream.next().await {
            match item {
                Ok(SSE::Connected(_)) => println!("open"),
                Ok(SSE::Event(event)) => print_event(&event.event_type, &event.data),
                Ok(SSE::Comment(_)) => (),
                Err(error) => println!("error {error}"),
            }
        }
    }};
}

async fn reqwest_eventsource(url: &str, token: &str) {
    use reqwest_eventsource::{Event, EventSource};
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.get(url).header("authorization", token);
    let mut source = EventSource::new(request).expect("a request");
    while let Some(item) = source.next().await {
        match item {
            Ok(Event::Open) => println!("open"),
            Ok(Event::Message(event)) => print_event(&event.event, &event.data),
            Err(error) => println!("error {error}"),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (url, token) = (var("URL").expect("URL"), var("TOKEN").expect("TOKEN"));
    let token = format!("Bearer {token}");
    match var("LIBRARY").expect("LIBRARY").as_str() {
        "reqwest-eventsource 0.6.0" => reqwest_eventsource(&url, &token).await,
        "eventsource-client 0.15.0" => eventsource_client!(eventsource_client_15, &url, &token),
        "eventsource-client 0.16.2" => eventsource_client!(eventsource_client_16, &url, &token),
        other => panic!("LIBRARY is {other:?}"),
    }
    println!("end");
}

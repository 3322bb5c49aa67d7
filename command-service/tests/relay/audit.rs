//! The checker: shares nothing with the relay but the contract.

use super::*;

#[derive(Default)]
pub(crate) struct Audit {
    pub(crate) read: u64,
    pub(crate) chain: ChainHash,
    /// Event id and sequence, in the order of the stream.
    pub(crate) events: Vec<(i64, u64)>,
    pub(crate) decoded: HashMap<i64, Event>,
    pub(crate) versions: BTreeMap<String, i64>,
    pub(crate) ticks: usize,
    pub(crate) scanned: usize,
    pub(crate) foreign: usize,
    pub(crate) faults: Vec<String>,
}

impl Audit {
    pub(crate) async fn read(&mut self, jetstream: &jetstream::Context, names: &StreamNames) {
        let Ok(stream) = jetstream.get_stream(names.stream()).await else {
            return;
        };
        let last = stream.cached_info().state.last_sequence;
        if self.read >= last {
            return;
        }
        let consumer = stream
            .create_consumer(consumer::pull::Config {
                deliver_policy: consumer::DeliverPolicy::ByStartSequence {
                    start_sequence: self.read + 1,
                },
                ack_policy: consumer::AckPolicy::None,
                ..Default::default()
            })
            .await
            .unwrap();
        while self.read < last {
            let mut messages = consumer
                .fetch()
                .max_messages(2_000)
                .messages()
                .await
                .unwrap();
            while let Some(message) = messages.next().await {
                let message = message.unwrap();
                let sequence = message.info().unwrap().stream_sequence;
                assert_eq!(sequence, self.read + 1, "the checker missed a message");
                self.read = sequence;
                self.take(names, sequence, &message.message);
            }
        }
        jetstream
            .delete_consumer_from_stream(&consumer.cached_info().name, names.stream())
            .await
            .unwrap();
    }

    pub(crate) fn take(
        &mut self,
        names: &StreamNames,
        sequence: u64,
        message: &async_nats::Message,
    ) {
        let headers = message.headers.as_ref();
        let of_relay = event_stream::event_id_of(headers)
            .zip(ChainHash::of(headers))
            .filter(|(id, chain)| self.chain.then(*id) == *chain);
        let Some((id, chain)) = of_relay else {
            self.foreign += 1;
            return;
        };
        self.chain = chain;
        let text = |name: &str| {
            headers
                .unwrap()
                .get(name)
                .map(|value| value.as_str().to_owned())
        };
        let resume = text(RESUME_TOKEN).unwrap_or_default();
        self.scanned += usize::from(resume.starts_with("scan:"));
        if id == 0 {
            self.ticks += 1;
            self.expect(message.subject.as_str() == names.tick(), || {
                "a tick's subject".to_owned()
            });
            return;
        }
        let event = match Event::decode(&message.payload) {
            Ok(event) => event,
            Err(error) => return self.faults.push(format!("{sequence}: {error}")),
        };
        self.expect(event.id.get() == id, || format!("{sequence}: its id"));
        self.expect(
            message.subject.as_str() == names.event(&event.payload),
            || format!("{sequence}: its subject"),
        );
        let expected = [
            ("ce-type", event.payload.kind().to_owned()),
            ("ce-subject", event.stream.to_string()),
            ("ce-time", event.at.to_string()),
            ("ce-specversion", "1.0".to_owned()),
            ("ce-datacontenttype", "application/json".to_owned()),
        ];
        for (name, value) in expected {
            self.expect(text(name).as_ref() == Some(&value), || {
                format!("{sequence}: {name} is not {value}")
            });
        }
        self.expect(text("traceparent").is_some(), || {
            format!("{sequence}: no traceparent")
        });
        let version = self.versions.entry(event.stream.to_string()).or_default();
        *version += 1;
        let in_order = *version == event.version;
        self.expect(in_order, || {
            format!("{sequence}: version {} of {}", event.version, event.stream)
        });
        self.events.push((id, sequence));
        let twice = self.decoded.insert(id, event).is_some();
        self.expect(!twice, || format!("{sequence}: event {id} is there twice"));
    }

    pub(crate) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(what());
        }
    }

    pub(crate) async fn compare(&mut self, world: &World) {
        let foreign = world.foreign.load(Ordering::Relaxed);
        self.expect(self.foreign == foreign, || {
            format!("not {foreign} messages of others")
        });
        let mut found = world.log().find(doc! {}).await.unwrap();
        let mut logged = BTreeSet::new();
        while let Some(document) = found.next().await {
            let Ok(event) = document.unwrap().to_event() else {
                continue;
            };
            let id = event.id.get();
            logged.insert(id);
            match self.decoded.get(&id) {
                None => self.faults.push(format!("event {id} is not on the stream")),
                Some(published) if *published != event => {
                    self.faults.push(format!("event {id} was changed"));
                }
                Some(_) => (),
            }
        }
        for id in self.decoded.keys().filter(|id| !logged.contains(id)) {
            self.faults.push(format!("event {id} is not in the log"));
        }
    }
}

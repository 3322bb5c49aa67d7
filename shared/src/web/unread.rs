//! Requests that are answered before their body has arrived.
//!
//! A body of a stated length is ended as it should be by actix-http (3.20): the answer says
//! `Connection: close`, what still comes is read for a second, so that the client gets the answer, and
//! the connection is closed. One in chunked coding is read on for as long as the client pleases, with
//! no timer at all, after 408 as well: such connections would cost nothing to hold. It tells the two
//! apart by whether anybody still holds the body, so the answer holds it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::TRANSFER_ENCODING;
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage};
use futures_util::Stream;

/// Middleware, for all that may answer early: the outermost.
pub async fn close_after_unread_body(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody, impl MessageBody>>, Error> {
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let body = Shared(Rc::new(RefCell::new(request.take_payload())));
    let payload = Box::pin(body.clone());
    request.set_payload(Payload::Stream { payload });
    let response = next.call(request).await?;
    Ok(response.map_body(|_, answer| {
        let answer = answer.boxed();
        EitherBody::right(Holding {
            answer,
            _body: body,
        })
    }))
}

/// The body of a request, for whoever reads it and for the answer.
#[derive(Clone)]
struct Shared(Rc<RefCell<Payload>>);

impl Stream for Shared {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

/// An answer that holds the body of its request.
struct Holding {
    answer: BoxBody,
    _body: Shared,
}

impl MessageBody for Holding {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.answer.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.answer).poll_next(cx)
    }
}

//! tarpc messages as length-delimited postcard.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::Connection;

/// The largest frame that any of our services sends or takes, bytes. A reply above it would end the connection (tarpc),
/// so services page their answers well below it.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// Postcard as a tokio-serde codec.
#[derive(Debug)]
pub struct Postcard<In, Out>(PhantomData<fn(Out) -> In>);

impl<In, Out> Default for Postcard<In, Out> {
    fn default() -> Self {
        Postcard(PhantomData)
    }
}

impl<In, Out: Serialize> tokio_serde::Serializer<Out> for Postcard<In, Out> {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, item: &Out) -> io::Result<Bytes> {
        postcard::to_stdvec(item).map(Bytes::from).map_err(io::Error::other)
    }
}

impl<In: for<'a> Deserialize<'a>, Out> tokio_serde::Deserializer<In> for Postcard<In, Out> {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<In> {
        postcard::from_bytes(frame).map_err(io::Error::other)
    }
}

/// What a connection said, of an error of its [`Transport`]: tarpc wraps it, and the wrapping has no kind.
pub fn innermost(error: &io::Error) -> &io::Error {
    let mut inner = error;
    while let Some(cause) = inner.get_ref().and_then(|cause| cause.downcast_ref::<io::Error>()) {
        inner = cause;
    }
    inner
}

/// What [`transport`] returns: a stream of `In` and a sink of `Out`.
pub type Transport<In, Out> = tarpc::serde_transport::Transport<Connection, In, Out, Postcard<In, Out>>;

/// The connection as a tarpc transport, to be used once the hello is done.
pub fn transport<In, Out>(connection: Connection) -> Transport<In, Out>
where
    In: for<'a> Deserialize<'a>,
    Out: Serialize,
{
    let framing = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_codec();
    tarpc::serde_transport::new(Framed::new(connection, framing), Postcard::default())
}

//! What the clients of a run do: a register that remembers everything, the key-value example, or the whole lock service.

pub(crate) mod asking;
pub(crate) mod kv;
pub(crate) mod locks;
pub(crate) mod register;

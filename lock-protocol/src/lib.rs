//! What a Plumeria client and server must both know

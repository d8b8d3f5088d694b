//! Hello, framing and compact codec of a Plumeria connection

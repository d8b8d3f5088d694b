//! The Plumeria command line

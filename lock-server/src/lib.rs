//! The Plumeria lock server

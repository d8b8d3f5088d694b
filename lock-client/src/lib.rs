//! The Plumeria clerk: caches locks and keeps a session

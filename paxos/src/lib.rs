//! Single-decree Paxos for each of a chain of instances, without IO

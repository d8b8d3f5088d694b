//! Scripted scenarios: one for each rule, with the message order chosen by hand.

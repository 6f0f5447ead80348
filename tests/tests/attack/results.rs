//! Results: what was committed reports its result, in every way in which a command can end.

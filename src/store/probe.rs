//! Finds out at the start whether Redis can serve sessions, and says in one line what is wrong.

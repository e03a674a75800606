//! The `sessionfs` command.

fn main() {}

//! The treillage driver.

fn main() {}

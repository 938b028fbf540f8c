//! The README's start is what the example `hello` runs.

#[test]
fn the_start_runs_in_hello() {
    let (readme, hello) = (include_str!("../README.md"), include_str!("hello.rs"));
    let start = readme.split("```rust,no_run\n").nth(1).and_then(|rest| rest.split("```").next());
    let start = start.expect("the README has a start");
    let function = &start[start.find("/// ").expect("it is a function")..];
    assert!(hello.contains(function), "not in examples/hello.rs as the README has it:\n{function}");
}

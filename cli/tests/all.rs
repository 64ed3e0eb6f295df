//! The command as a person runs it: the built binary, its output and its exit code.

// A helper of a test may fail as the test itself may.
#![allow(clippy::unwrap_used)]

mod api;
mod helm;
mod leaving;
mod offline;
mod verbs;

use std::process::{Command, Output};

/// `meshwright` with arguments, without any cluster unless the test names one.
fn meshwright(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwright"));
    command.args(arguments).env("KUBECONFIG", "/nowhere").env_remove("KUBERNETES_SERVICE_HOST");
    command
}

/// Standard output of a command that must succeed.
fn stdout(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

//! Verb `init`: redirects the pod's TCP traffic to Envoy. Runs once, in the init container, with NET_ADMIN.
//!
//! `rules` (pure) says what to load; this file asks the kernel what is there and loads it in one transaction per
//! address family. Running it again is safe: its own chains are rewritten and nothing else is touched.

pub mod rules;

use std::io::Write;
use std::process::{Command, Stdio};

use rules::{Exclusions, Family, Jumps, SidecarUser};

/// Why the redirect could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The container lacks the right to change the network.
    #[error(
        "{program} is not permitted: the init container needs the capability NET_ADMIN and user id 0 ({detail})"
    )]
    NotPermitted {
        /// The program that was refused.
        program: &'static str,
        /// What it printed.
        detail: String,
    },
    /// The kernel lacks NAT for this family.
    #[error("{program} failed: the node's kernel offers no NAT table for {family} ({detail})")]
    NoNat {
        /// The program that failed.
        program: &'static str,
        /// Address family.
        family: Family,
        /// What it printed.
        detail: String,
    },
    /// The program isn't in the image.
    #[error("{program} could not be started")]
    Start {
        /// The program.
        program: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Anything else it printed.
    #[error("{program} failed: {detail}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it printed.
        detail: String,
    },
}

/// Loads the redirect rules of every address family that the pod has, and returns the families.
///
/// # Errors
/// When the rules of one family could not be loaded. No traffic is left unredirected silently: a pod with an IPv6
/// address on a node without NAT for IPv6 is refused.
pub fn redirect(exclusions: &Exclusions, user: SidecarUser) -> Result<Vec<Family>, InitError> {
    let interfaces = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut families = vec![Family::V4];
    if rules::has_ipv6(&interfaces) {
        families.push(Family::V6);
    }
    for family in &families {
        let saved = execute(*family, save_program(*family), &["-t", "nat"], "")?;
        let input = rules::render(*family, exclusions, user, Jumps::found_in(&saved));
        execute(*family, restore_program(*family), &["--noflush"], &input)?;
    }
    Ok(families)
}

fn save_program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-save",
        Family::V6 => "ip6tables-save",
    }
}

fn restore_program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}

fn execute(
    family: Family,
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, InitError> {
    let start = |source| InitError::Start { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses to run closes its input; what it says on stderr is the better error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(classify(family, program, String::from_utf8_lossy(&output.stderr).trim()))
}

fn classify(family: Family, program: &'static str, stderr: &str) -> InitError {
    let detail = stderr.replace('\n', "; ");
    if stderr.contains("Permission denied") || stderr.contains("not permitted") {
        InitError::NotPermitted { program, detail }
    } else if stderr.contains("does not exist") || stderr.contains("not supported") {
        InitError::NoNat { program, family, detail }
    } else {
        InitError::Failed { program, detail }
    }
}

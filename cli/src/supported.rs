//! Which API servers the mesh is for: what it needs is judged by version where nothing else tells.

use anyhow::Context;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;

use crate::check::{Check, Finding};
use crate::output::advise;
use crate::progress::Progress;

/// The oldest and the newest minor version of Kubernetes 1 that Meshwright is tested with (tests/cluster).
const TESTED: (u32, u32) = (20, 37);

/// What is to be said of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Within the range.
    Tested,
    /// Older than anything that works.
    TooOld,
    /// Newer than what was tried; Kubernetes keeps its stable API, so that is no reason to refuse.
    Newer,
    /// It says nothing that is a version.
    Unknown,
}

/// Minor versions of managed clusters are like `34+`.
fn judge(version: &Info) -> Verdict {
    let digits = version.minor.trim_end_matches(|sign: char| !sign.is_ascii_digit());
    let (Ok(major), Ok(minor)) = (version.major.parse::<u32>(), digits.parse::<u32>()) else {
        return Verdict::Unknown;
    };
    match (major, minor) {
        (0, _) => Verdict::TooOld,
        (1, minor) if minor < TESTED.0 => Verdict::TooOld,
        (1, minor) if minor <= TESTED.1 => Verdict::Tested,
        _ => Verdict::Newer,
    }
}

fn range() -> String {
    format!("Meshwright is tested with Kubernetes 1.{} to 1.{}", TESTED.0, TESTED.1)
}

/// What `meshwright check` says of a version.
pub fn finding(version: &Info) -> Finding {
    let says = format!("{}; {}", version.git_version, range());
    match judge(version) {
        Verdict::Tested => Finding::passed(Check::Kubernetes, says),
        Verdict::TooOld => Finding::failed(Check::Kubernetes, says, "update the cluster"),
        Verdict::Newer | Verdict::Unknown => {
            Finding::warning(Check::Kubernetes, says, "try it on a test cluster first")
        }
    }
}

/// Refuses an API server that is too old, before anything is written; says when it is newer than what was tried.
pub async fn check(client: &Client, progress: &mut Progress) -> anyhow::Result<()> {
    let version = client.apiserver_version().await.context("the version of the API server")?;
    let range = range();
    match judge(&version) {
        Verdict::Tested => Ok(()),
        Verdict::TooOld => Err(advise(
            format!("this cluster runs Kubernetes {}, which is too old; {range}", version.git_version),
            "update the cluster, or choose another one with --context; nothing was applied",
        )),
        Verdict::Newer | Verdict::Unknown => {
            progress.done(&format!("this cluster runs Kubernetes {}; {range}", version.git_version));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another version that is pinned for the tests changes what is said here.
    #[test]
    fn the_newest_is_the_newest_that_the_tests_run_on() {
        let pins = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cluster/kubernetes");
        let minor = |entry: std::fs::DirEntry| {
            entry.file_name().to_str()?.strip_prefix("1.")?.split('.').next()?.parse::<u32>().ok()
        };
        let newest = std::fs::read_dir(pins).unwrap().filter_map(|entry| minor(entry.unwrap())).max();
        assert_eq!(newest, Some(TESTED.1));
    }

    #[test]
    fn versions_below_the_floor_are_refused_and_newer_ones_are_not() {
        for (major, minor, verdict) in [
            ("1", "19", Verdict::TooOld),
            ("1", "19+", Verdict::TooOld),
            ("0", "37", Verdict::TooOld),
            ("1", "20", Verdict::Tested),
            ("1", "34+", Verdict::Tested),
            ("1", "37", Verdict::Tested),
            ("1", "38", Verdict::Newer),
            ("2", "0", Verdict::Newer),
            ("", "", Verdict::Unknown),
            ("1", "x", Verdict::Unknown),
        ] {
            let info = Info { major: major.to_owned(), minor: minor.to_owned(), ..Info::default() };
            assert_eq!(judge(&info), verdict, "{major}.{minor}");
        }
    }
}

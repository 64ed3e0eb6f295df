//! A file that only its owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use anyhow::Context;

use crate::output::advise;

/// Standard input or output.
const PIPE: &str = "-";
/// Two Secrets take a few kilobytes; more is something else.
const LARGEST: u64 = 1 << 20;
/// Rights of the group and of others.
const OTHERS: u32 = 0o077;

/// Refuses, before anything secret is read, a target that others could read or that holds something already.
pub fn check_target(target: &str) -> anyhow::Result<()> {
    let next = "name a new file, or pipe it: meshwright root backup - | age -p > root.age";
    if target != PIPE {
        return match fs::symlink_metadata(target) {
            Ok(_) => Err(advise(format!("{target} exists; a backup is never overwritten"), next)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| target.to_owned()),
        };
    }
    if io::stdout().is_terminal() {
        return Err(advise("a private key is not written to a terminal", next));
    }
    let out = File::from(io::stdout().as_fd().try_clone_to_owned().context("standard output")?);
    let meta = out.metadata().context("standard output")?;
    if meta.is_file() && meta.mode() & OTHERS != 0 {
        return Err(advise("standard output is a file that others can read", next));
    }
    Ok(())
}

/// Writes the backup: a new file with mode 0600, whole or not at all.
pub fn write(target: &str, text: &str) -> anyhow::Result<()> {
    if target == PIPE {
        return io::stdout().lock().write_all(text.as_bytes()).context("standard output");
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .with_context(|| format!("cannot make {target}"))?;
    let written = private(&file).and_then(|()| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(())
    });
    if let Err(error) = written {
        // Half a backup is worse than none: somebody would count on it.
        let _ = fs::remove_file(target);
        return Err(error.context(format!("cannot write {target}")));
    }
    Ok(())
}

/// Some file systems know no modes.
fn private(file: &File) -> anyhow::Result<()> {
    anyhow::ensure!(
        file.metadata()?.mode() & OTHERS == 0,
        "others can read files there (its file system has no modes)"
    );
    Ok(())
}

/// Reads a backup.
pub fn read(source: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    if source == PIPE {
        io::stdin().lock().take(LARGEST + 1).read_to_string(&mut text).context("standard input")?;
    } else {
        let file = File::open(source).with_context(|| source.to_owned())?;
        if file.metadata().with_context(|| source.to_owned())?.mode() & OTHERS != 0 {
            eprintln!(
                "warning: others can read {source}, and with it pose as any workload: chmod 600 {source}"
            );
        }
        file.take(LARGEST + 1).read_to_string(&mut text).with_context(|| source.to_owned())?;
    }
    anyhow::ensure!(text.len() as u64 <= LARGEST, "{source} is too large to be a backup of a root of trust");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.yaml");
        let name = path.to_str().unwrap();
        check_target(name).unwrap();
        write(name, "secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(name).unwrap(), "secret");
        assert!(check_target(name).unwrap_err().to_string().contains("never overwritten"));
        assert!(write(name, "other").is_err());
        assert_eq!(read(name).unwrap(), "secret");
        let dangling = folder.path().join("link");
        std::os::unix::fs::symlink("/nowhere/at/all", &dangling).unwrap();
        assert!(check_target(dangling.to_str().unwrap()).is_err(), "a link leads somewhere else");
    }
}

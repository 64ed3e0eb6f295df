//! The files that Envoy reads its secrets from: `sds/identity.json` (certificate chain and key) and
//! `sds/trust.json` (roots). Only this program and Envoy, which share a user id, may read them.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use identity::{Identity, Trust};
use serde_json::{Value, json};
use time::OffsetDateTime;

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A secret could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Path of the identity below the run directory.
#[must_use]
pub fn identity_path(run: &Path) -> PathBuf {
    directory(run).join("identity.json")
}

/// Path of the trust bundle below the run directory.
#[must_use]
pub fn trust_path(run: &Path) -> PathBuf {
    directory(run).join("trust.json")
}

/// The directory that Envoy watches.
#[must_use]
pub fn directory(run: &Path) -> PathBuf {
    run.join("sds")
}

/// Writes both secrets. Trust comes first: a certificate of a new root is of no use to a peer that is asked to
/// trust only the old one.
///
/// # Errors
/// When a file can't be written or renamed.
pub fn write(run: &Path, identity: &Identity, trust: &Trust) -> Result<(), WriteError> {
    write_trust(run, &trust.bundle, &trust.version())?;
    let path = identity_path(run);
    replace(&path, &identity_secret(identity)).map_err(|source| WriteError { path, source })
}

/// Writes the roots. Envoy tells the `version` back when it has read them.
///
/// # Errors
/// When the file can't be written or renamed.
pub fn write_trust(run: &Path, bundle: &str, version: &str) -> Result<(), WriteError> {
    let at = |path: PathBuf| move |source| WriteError { path, source };
    std::fs::create_dir_all(directory(run)).map_err(at(directory(run)))?;
    let path = trust_path(run);
    replace(&path, &trust_secret(bundle, version)).map_err(at(path.clone()))
}

/// The roots that were written last; `None` when there are none.
#[must_use]
pub fn read_trust(run: &Path) -> Option<Trust> {
    let secret = read(&trust_path(run))?;
    let bundle = secret["resources"][0]["validation_context"]["trusted_ca"]["inline_string"].as_str()?;
    Trust::of_version(bundle, secret["version_info"].as_str()?)
}

/// Version of what was written last into one of the files; `None` when there is nothing.
#[must_use]
pub fn read_version(path: &Path) -> Option<String> {
    read(path)?["version_info"].as_str().map(str::to_owned)
}

/// Whether what was written last lets an Envoy speak to anybody: it is there, and its life is not over.
#[must_use]
pub fn is_usable(run: &Path) -> bool {
    let chain = read(&identity_path(run)).and_then(|secret| {
        let chain = &secret["resources"][0]["tls_certificate"]["certificate_chain"]["inline_string"];
        chain.as_str().map(str::to_owned)
    });
    let end = chain.and_then(|chain| identity::end_of(&chain));
    read_trust(run).is_some()
        && end.is_some_and(|end| end > OffsetDateTime::now_utc() + time::Duration::MINUTE)
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn identity_secret(identity: &Identity) -> Value {
    json!({ "version_info": identity.version(), "resources": [{
        "@type": SECRET,
        "name": "identity",
        "tls_certificate": {
            "certificate_chain": { "inline_string": identity.chain },
            "private_key": { "inline_string": identity.key.pem() },
        },
    }] })
}

fn trust_secret(bundle: &str, version: &str) -> Value {
    json!({ "version_info": version, "resources": [{
        "@type": SECRET,
        "name": "trust",
        "validation_context": { "trusted_ca": { "inline_string": bundle } },
    }] })
}

/// Replaces a file by rename (what Envoy's watch on the directory reacts to), readable by its owner alone.
///
/// # Errors
/// When it can't be written or renamed.
pub fn replace(path: &Path, content: &Value) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec(content)?)?;
    drop(file);
    std::fs::rename(fresh, path)
}

//! What comes from a Git server, from a repository, and from the child that reads both.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use gitops::strangers;

/// Bytes of a pack's checksum, at its end.
const CHECKSUM: usize = 20;

/// A pack. Its checksum is put right first: whoever made it can do that, and else nothing behind it is ever reached.
#[must_use]
pub fn pack(data: &[u8]) -> bool {
    let body = &data[..data.len().saturating_sub(CHECKSUM)];
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, body);
    in_folder(|folder| strangers::pack(&[body, sum.as_ref()].concat(), folder))
}

/// The content of a tree object.
#[must_use]
pub fn tree(data: &[u8]) -> bool {
    in_folder(|folder| strangers::tree(data, folder))
}

/// What a child says that it fetched.
#[must_use]
pub fn answer(data: &[u8]) -> bool {
    strangers::answer(data)
}

fn in_folder(take: impl FnOnce(&std::path::Path) -> bool) -> bool {
    tempfile::tempdir().is_ok_and(|folder| take(&folder.path().join("repository")))
}

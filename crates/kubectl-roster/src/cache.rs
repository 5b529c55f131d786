//! Caches tokens on this machine until shortly before they expire, one file per token, readable only by the owner.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_credentials::claim::fold;
use roster_credentials::digest::hex;
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Tokens that expire within this time are not used, because a request may take a while.
const EXPIRY_MARGIN: Duration = Duration::from_secs(60);

/// If the cluster rejects a token, client-go requests another one within this time.
const RETRY_WINDOW: SignedDuration = SignedDuration::from_secs(5);

/// Maximum number of bytes read from a cache file. Tokens are far shorter.
const MAX_BYTES: u64 = 64 * 1024;

/// A token and its expiration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Token {
    /// Signed JWT.
    pub token: SecretString,
    pub expiration_timestamp: Time,
}

impl Token {
    fn is_valid(&self, now: Timestamp) -> bool {
        now + EXPIRY_MARGIN < self.expiration_timestamp.0
    }
}

/// Identifies a token in the cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key<'a> {
    /// URL of the server that issued the token.
    pub server: &'a str,
    /// URL of the cluster that the token is sent to. Empty if unknown.
    pub cluster: &'a str,
    /// Username or email given at login.
    pub username: &'a str,
    /// Requested audience, if any.
    pub audience: Option<&'a str>,
}

impl Key<'_> {
    /// Returns the file name. The lengths are hashed too, so that different keys never have the same name.
    fn file_name(&self) -> String {
        let mut digest = Sha256::new();
        for part in [self.server, self.cluster, self.username, self.audience.unwrap_or_default()] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        format!("{}.json", hex(&digest.finalize()))
    }
}

/// Content of a cache file. It repeats the key, because files can be renamed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    server: String,
    cluster: String,
    username: String,
    audience: Option<String>,
    /// When the token was last returned to kubectl.
    handed_out: Option<Timestamp>,
    token: Token,
}

impl Entry {
    fn key(&self) -> Key<'_> {
        Key {
            server: &self.server,
            cluster: &self.cluster,
            username: &self.username,
            audience: self.audience.as_deref(),
        }
    }

    /// Returns whether the token is for the cluster and was issued for one of the names.
    fn belongs_to(&self, cluster: &str, names: &[String]) -> bool {
        self.cluster == cluster && names.iter().any(|name| fold(name) == fold(&self.username))
    }
}

/// A token from the cache.
#[derive(Debug)]
pub(super) struct Cached {
    pub token: Token,
    /// Set if the token was requested twice within [`RETRY_WINDOW`]: the cluster may have rejected it.
    pub may_be_rejected: bool,
}

/// Directory of cached tokens.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Returns the cache of the current user, below `XDG_CACHE_HOME` or `HOME`.
    pub(super) fn of_environment() -> Result<Self> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        let folder = folder.context("no directory for cached tokens: set HOME or --no-cache")?;
        Ok(Self { folder: folder.join("roster") })
    }

    /// Returns the token for the key, if it is still valid and no other user could read or write it.
    pub(super) fn get(&self, key: Key<'_>, now: Timestamp) -> Option<Cached> {
        let entry = read_entry(&self.path(key)).filter(|entry| entry.key() == key && entry.token.is_valid(now))?;
        let may_be_rejected = entry.handed_out.is_some_and(|before| now.duration_since(before) < RETRY_WINDOW);
        // Best effort: the token is valid even if the time can't be recorded.
        let _ = self.write(key, &entry.token, Some(now));
        Some(Cached { token: entry.token, may_be_rejected })
    }

    /// Removes the token for the key. If that fails, the next `put` replaces it.
    pub(super) fn remove(&self, key: Key<'_>) {
        let _ = fs::remove_file(self.path(key));
    }

    /// Stores the token and removes expired ones.
    pub(super) fn put(&self, key: Key<'_>, token: &Token, now: Timestamp) -> Result<()> {
        self.prepare().with_context(|| self.folder.display().to_string())?;
        self.write(key, token, None)?;
        self.sweep(now);
        Ok(())
    }

    /// Deletes all tokens. Returns their number.
    pub(super) fn clear(&self) -> Result<usize> {
        self.delete(|_| true)
    }

    /// Deletes the tokens for the cluster that were issued for these names. Returns their number.
    pub(super) fn forget(&self, cluster: &str, names: &[String]) -> Result<usize> {
        self.delete(|path| read_entry(path).is_some_and(|entry| entry.belongs_to(cluster, names)))
    }

    fn delete(&self, is_selected: impl Fn(&Path) -> bool) -> Result<usize> {
        let mut deleted = 0;
        for path in self.files()?.into_iter().filter(|path| is_selected(path)) {
            match fs::remove_file(&path) {
                // Another process deleted it first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => {
                    removed.with_context(|| path.display().to_string())?;
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }

    /// Removes expired and unreadable files. Best effort, because `get` ignores them anyway.
    fn sweep(&self, now: Timestamp) {
        let is_expired = |path: &Path| read_entry(path).is_none_or(|entry| !entry.token.is_valid(now));
        for path in self.files().unwrap_or_default() {
            // Files with another extension are drafts that another process may be writing.
            if path.extension().is_some_and(|extension| extension == "json") && is_expired(&path) {
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// Lists the files of the cache, including drafts.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| self.folder.display().to_string())?,
        };
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry?.path());
        }
        files.retain(|path| is_entry(path));
        Ok(files)
    }

    fn path(&self, key: Key<'_>) -> PathBuf {
        self.folder.join(key.file_name())
    }

    fn write(&self, key: Key<'_>, token: &Token, handed_out: Option<Timestamp>) -> Result<()> {
        let path = self.path(key);
        let content = content(key, token, handed_out);
        // Write a draft and rename it, so that readers never see a partial file and no other user can ever read it. The
        // draft's name starts like the file's, so that `clear` finds drafts of processes that crashed.
        let stem = path.file_stem().unwrap_or_default().display();
        let write = || {
            let mut draft = tempfile::Builder::new().prefix(&format!("{stem}.")).tempfile_in(&self.folder)?;
            draft.write_all(content.as_bytes())?;
            draft.persist(&path).map_err(|error| error.error)
        };
        write().map(drop).with_context(|| path.display().to_string())
    }

    fn prepare(&self) -> Result<()> {
        if let Some(parent) = self.folder.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return Ok(created?),
        }
        let metadata = fs::symlink_metadata(&self.folder)?;
        if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
            bail!("is not a directory that you own");
        }
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&self.folder, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }
}

/// Serializes an [`Entry`].
fn content(key: Key<'_>, token: &Token, handed_out: Option<Timestamp>) -> Zeroizing<String> {
    let Token { token, expiration_timestamp } = token;
    let entry = json!({
        "server": key.server,
        "cluster": key.cluster,
        "username": key.username,
        "audience": key.audience,
        "handedOut": handed_out,
        "token": {"token": token.expose_secret(), "expirationTimestamp": expiration_timestamp},
    });
    Zeroizing::new(entry.to_string())
}

/// Returns whether the path is a file of the cache, including drafts.
fn is_entry(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Reads a cache file. Returns `None` if it is invalid or another user could have read or written it.
fn read_entry(path: &Path) -> Option<Entry> {
    serde_json::from_str(&read_own(path).ok()?).ok()
}

/// Reads a file that the current user owns and no other user can read or write.
fn read_own(path: &Path) -> Result<Zeroizing<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        bail!("is not a file that only you can read and write");
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const KEY: Key<'static> =
        Key { server: "https://a:6443", cluster: "https://a:6443", username: "jane", audience: None };

    fn token(text: &str) -> Token {
        Token { token: text.into(), expiration_timestamp: Time("2030-01-01T12:00:00Z".parse().unwrap()) }
    }

    fn at(time: &str) -> Timestamp {
        format!("2030-01-01T{time}Z").parse().unwrap()
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: folder.path().join("deep").join("roster") };
        (folder, cache)
    }

    fn put(cache: &Cache, key: Key<'_>, text: &str) {
        cache.put(key, &token(text), at("10:00:00")).unwrap();
    }

    fn found(cache: &Cache, key: Key<'_>) -> Option<String> {
        cache.get(key, at("11:00:00")).map(|cached| cached.token.token.expose_secret().to_owned())
    }

    #[rstest]
    #[case(Key { server: "https://b", ..KEY })]
    #[case(Key { cluster: "https://b", ..KEY })]
    #[case(Key { username: "joan", ..KEY })]
    #[case(Key { audience: Some("other"), ..KEY })]
    #[case(Key { cluster: "https://a:6443j", username: "ane", ..KEY })]
    fn file_names_of_different_keys_differ(#[case] other: Key<'_>) {
        assert_ne!(KEY.file_name(), other.file_name());
        assert!(is_entry(Path::new(&other.file_name())));
    }

    #[test]
    fn cached_tokens_are_readable_only_by_their_owner() {
        let (_guard, cache) = cache();
        assert!(found(&cache, KEY).is_none());
        put(&cache, KEY, "first");
        put(&cache, KEY, "second");
        assert_eq!(found(&cache, KEY).as_deref(), Some("second"));
        assert!(found(&cache, Key { username: "joan", ..KEY }).is_none());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&cache.folder), 0o700);
        assert_eq!(mode(&cache.path(KEY)), 0o600);
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 1);
    }

    #[test]
    fn a_token_is_not_used_in_its_last_minute() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        assert!(cache.get(KEY, at("11:58:59")).is_some());
        assert!(cache.get(KEY, at("11:59:00")).is_none());
    }

    #[test]
    fn a_token_that_is_requested_again_at_once_may_be_rejected() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        let may_be_rejected = |time: &str| cache.get(KEY, at(time)).unwrap().may_be_rejected;
        let times = ["11:00:00", "11:00:04", "11:00:08", "11:00:13"];
        assert_eq!(times.map(may_be_rejected), [false, true, true, false]);
        assert_eq!(cache.path(KEY).metadata().unwrap().mode() & 0o777, 0o600);
        put(&cache, KEY, "y");
        assert!(!may_be_rejected("11:00:14"), "a new token is not");
        cache.remove(KEY);
        assert!(found(&cache, KEY).is_none());
    }

    #[test]
    fn files_that_others_can_access_are_not_used() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        let path = cache.path(KEY);
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(found(&cache, KEY).is_none(), "{mode:o}");
        }
        put(&cache, KEY, "y");
        assert_eq!(found(&cache, KEY).as_deref(), Some("y"));
    }

    #[test]
    fn a_link_is_not_followed() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        let path = cache.path(KEY);
        let elsewhere = cache.folder.join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(found(&cache, KEY).is_none());
    }

    #[test]
    fn a_renamed_file_is_not_used() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        let other = Key { cluster: "https://b", ..KEY };
        fs::hard_link(cache.path(KEY), cache.path(other)).unwrap();
        assert!(found(&cache, other).is_none());
        assert!(found(&cache, KEY).is_some());
    }

    #[test]
    fn permissions_of_the_directory_are_tightened() {
        let (_guard, cache) = cache();
        fs::create_dir_all(&cache.folder).unwrap();
        fs::set_permissions(&cache.folder, Permissions::from_mode(0o755)).unwrap();
        put(&cache, KEY, "x");
        assert_eq!(fs::metadata(&cache.folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn clearing_keeps_foreign_files() {
        let (_guard, cache) = cache();
        assert_eq!(cache.clear().unwrap(), 0);
        put(&cache, KEY, "x");
        fs::write(cache.folder.join("notes.json"), "{}").unwrap();
        assert_eq!(cache.clear().unwrap(), 1);
        assert!(found(&cache, KEY).is_none() && cache.folder.join("notes.json").exists());
    }

    #[test]
    fn concurrent_deletion_is_not_an_error() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        put(&cache, Key { username: "joan", ..KEY }, "y");
        let gone = |path: &Path| path != cache.path(KEY) || fs::remove_file(path).is_ok();
        assert_eq!(cache.delete(gone).unwrap(), 1);
        assert!(cache.files().unwrap().is_empty());
    }

    #[test]
    fn forgetting_deletes_the_tokens_of_all_names_and_no_others() {
        let (_guard, cache) = cache();
        let email = Key { username: "Jane@example.com", audience: Some("other"), ..KEY };
        let others = [Key { username: "joan", ..KEY }, Key { cluster: "https://b", ..KEY }];
        for key in [KEY, email].into_iter().chain(others) {
            put(&cache, key, "x");
        }
        let names = ["jane", "jane@example.com"].map(str::to_owned);
        assert_eq!(cache.forget(KEY.cluster, &names).unwrap(), 2);
        assert!(found(&cache, KEY).is_none() && found(&cache, email).is_none());
        assert!(others.iter().all(|key| found(&cache, *key).is_some()));
    }

    #[test]
    fn storing_a_token_removes_expired_ones_and_keeps_drafts() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        let older = cache.folder.join(format!("{}.json", "a".repeat(64)));
        let draft = cache.folder.join(format!("{}.12", "b".repeat(64)));
        fs::write(&older, r#"{"token": "x", "expirationTimestamp": "2030-01-01T12:00:00Z"}"#).unwrap();
        fs::write(&draft, "").unwrap();
        let end = Time("2030-01-02T12:00:00Z".parse().unwrap());
        let other = Key { username: "joan", ..KEY };
        cache.put(other, &Token { expiration_timestamp: end, ..token("y") }, at("12:00:00")).unwrap();
        assert!(!cache.path(KEY).exists() && !older.exists());
        assert!(cache.path(other).exists() && draft.exists());
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        assert!(!format!("{:?}", token("s3cret")).contains("s3cret"));
    }
}

//! Tokens that are kept on this machine until shortly before they end, one file each, for their owner alone.

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

/// A token is not used any more this long before its end: a request may take a while.
const MARGIN: Duration = Duration::from_secs(60);

/// client-go asks again where the cluster refuses a token, and does so within this time.
const REFUSED_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// Longest file that is read. A token is far shorter.
const MOST_BYTES: u64 = 64 * 1024;

/// A token, and until when it is good.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Token {
    /// The token itself.
    pub token: SecretString,
    /// Its end.
    pub expiration_timestamp: Time,
}

impl Token {
    fn is_good(&self, now: Timestamp) -> bool {
        now + MARGIN < self.expiration_timestamp.0
    }
}

/// What a token is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key<'a> {
    /// URL that the login went to.
    pub server: &'a str,
    /// URL of the cluster that the token is sent to. Empty where none is known.
    pub cluster: &'a str,
    /// As whom.
    pub username: &'a str,
    /// For which audience.
    pub audience: Option<&'a str>,
}

impl Key<'_> {
    /// Name of the file. The lengths keep one key from reading like another.
    fn file_name(&self) -> String {
        let mut digest = Sha256::new();
        for part in [self.server, self.cluster, self.username, self.audience.unwrap_or_default()] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        format!("{}.json", hex(&digest.finalize()))
    }
}

/// What a file holds. It says itself what it is for: names of files can be changed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    server: String,
    cluster: String,
    username: String,
    audience: Option<String>,
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

    /// Whether it is for the cluster, and was got under one of the names.
    fn is_of(&self, cluster: &str, names: &[String]) -> bool {
        self.cluster == cluster && names.iter().any(|name| fold(name) == fold(&self.username))
    }
}

/// A token of the cache.
#[derive(Debug)]
pub(super) struct Cached {
    /// The token.
    pub token: Token,
    /// Whether it is asked for again so soon that the cluster may have refused it.
    pub is_doubtful: bool,
}

/// Where tokens are kept.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache of whoever runs this.
    pub(super) fn of_environment() -> Result<Self> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        let folder = folder.context("there is no place for cached tokens: set HOME, or give --no-cache")?;
        Ok(Self { folder: folder.join("roster") })
    }

    /// The token for the key, if it is still good and nobody else can have read or written it.
    pub(super) fn get(&self, key: Key<'_>, now: Timestamp) -> Option<Cached> {
        let entry = read_entry(&self.path(key)).filter(|entry| entry.key() == key && entry.token.is_good(now))?;
        let is_doubtful = entry.handed_out.is_some_and(|before| now.duration_since(before) < REFUSED_WITHIN);
        // A token is good even where this can't be noted.
        let _ = self.write(key, &entry.token, Some(now));
        Some(Cached { token: entry.token, is_doubtful })
    }

    /// Removes the token for the key. Where it can't be removed, it is replaced by the next.
    pub(super) fn remove(&self, key: Key<'_>) {
        let _ = fs::remove_file(self.path(key));
    }

    /// Keeps the token, and removes those that have ended.
    pub(super) fn put(&self, key: Key<'_>, token: &Token, now: Timestamp) -> Result<()> {
        self.prepare().with_context(|| self.folder.display().to_string())?;
        self.write(key, token, None)?;
        self.sweep(now);
        Ok(())
    }

    /// Deletes all tokens. Returns how many there were.
    pub(super) fn clear(&self) -> Result<usize> {
        self.delete(|_| true)
    }

    /// Deletes the tokens for the cluster of whoever logs in by these names.
    pub(super) fn forget(&self, cluster: &str, names: &[String]) -> Result<usize> {
        self.delete(|path| read_entry(path).is_some_and(|entry| entry.is_of(cluster, names)))
    }

    fn delete(&self, is_meant: impl Fn(&Path) -> bool) -> Result<usize> {
        let mut deleted = 0;
        for path in self.files()?.into_iter().filter(|path| is_meant(path)) {
            match fs::remove_file(&path) {
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => {
                    removed.with_context(|| path.display().to_string())?;
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }

    /// Removes what is not used any more. Where that fails it stays: it is not believed either.
    fn sweep(&self, now: Timestamp) {
        let is_spent = |path: &Path| read_entry(path).is_none_or(|entry| !entry.token.is_good(now));
        for path in self.files().unwrap_or_default() {
            // Another process may be about to finish what is no such file yet.
            if path.extension().is_some_and(|extension| extension == "json") && is_spent(&path) {
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// The files of the cache, finished or not.
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
        // Complete before anybody reads it under its name, and for its owner alone all the while. What a process leaves behind
        // that ends in between is known by its name.
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
            bail!("is no folder of yours");
        }
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&self.folder, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }
}

/// What is written of an [`Entry`].
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

/// Whether it is a file of the cache, finished or not.
fn is_entry(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the file holds, if it is one to believe.
fn read_entry(path: &Path) -> Option<Entry> {
    serde_json::from_str(&read_own(path).ok()?).ok()
}

/// Reads a file that belongs to whoever runs this, and that nobody else can read or write.
fn read_own(path: &Path) -> Result<Zeroizing<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        bail!("others can read or write it");
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MOST_BYTES).read_to_string(&mut text)?;
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
    fn a_name_is_of_one_key(#[case] other: Key<'_>) {
        assert_ne!(KEY.file_name(), other.file_name());
        assert!(is_entry(Path::new(&other.file_name())));
    }

    #[test]
    fn a_token_is_kept_for_its_owner_alone() {
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
    fn a_token_that_is_asked_for_again_at_once_is_doubtful() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        let is_doubtful = |time: &str| cache.get(KEY, at(time)).unwrap().is_doubtful;
        let times = ["11:00:00", "11:00:04", "11:00:08", "11:00:13"];
        assert_eq!(times.map(is_doubtful), [false, true, true, false]);
        assert_eq!(cache.path(KEY).metadata().unwrap().mode() & 0o777, 0o600);
        put(&cache, KEY, "y");
        assert!(!is_doubtful("11:00:14"), "a new one is not");
        cache.remove(KEY);
        assert!(found(&cache, KEY).is_none());
    }

    #[test]
    fn what_others_can_read_is_not_used() {
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
    fn a_file_under_the_name_of_another_is_not_believed() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        let other = Key { cluster: "https://b", ..KEY };
        fs::hard_link(cache.path(KEY), cache.path(other)).unwrap();
        assert!(found(&cache, other).is_none());
        assert!(found(&cache, KEY).is_some());
    }

    #[test]
    fn a_folder_that_others_can_enter_is_closed() {
        let (_guard, cache) = cache();
        fs::create_dir_all(&cache.folder).unwrap();
        fs::set_permissions(&cache.folder, Permissions::from_mode(0o755)).unwrap();
        put(&cache, KEY, "x");
        assert_eq!(fs::metadata(&cache.folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn clearing_leaves_what_is_not_of_the_cache() {
        let (_guard, cache) = cache();
        assert_eq!(cache.clear().unwrap(), 0);
        put(&cache, KEY, "x");
        fs::write(cache.folder.join("notes.json"), "{}").unwrap();
        assert_eq!(cache.clear().unwrap(), 1);
        assert!(found(&cache, KEY).is_none() && cache.folder.join("notes.json").exists());
    }

    #[test]
    fn what_others_delete_at_the_same_time_is_no_error() {
        let (_guard, cache) = cache();
        put(&cache, KEY, "x");
        put(&cache, Key { username: "joan", ..KEY }, "y");
        let gone = |path: &Path| path != cache.path(KEY) || fs::remove_file(path).is_ok();
        assert_eq!(cache.delete(gone).unwrap(), 1);
        assert!(cache.files().unwrap().is_empty());
    }

    #[test]
    fn a_person_is_forgotten_by_every_name_and_nobody_else_is() {
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
    fn what_has_ended_goes_when_a_new_one_comes() {
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

//! Tokens that are kept on this machine until shortly before they end, one file each, for their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A token is not used any more this long before its end: a request may take a while.
const MARGIN: Duration = Duration::from_secs(60);

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

/// What a token is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    /// URL that the login went to.
    pub server: &'a str,
    /// As whom.
    pub username: &'a str,
    /// For which audience.
    pub audience: Option<&'a str>,
}

impl Key<'_> {
    /// Name of the file. The lengths keep one key from reading like another.
    fn file_name(&self) -> String {
        let mut digest = Sha256::new();
        for part in [self.server, self.username, self.audience.unwrap_or_default()] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        let hex = digest.finalize().iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        format!("{hex}.json")
    }
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
    pub(super) fn get(&self, key: Key<'_>, now: Timestamp) -> Option<Token> {
        let text = read_own(&self.folder.join(key.file_name())).ok()?;
        let token: Token = serde_json::from_str(&text).ok()?;
        (now + MARGIN < token.expiration_timestamp.0).then_some(token)
    }

    /// Keeps the token.
    pub(super) fn put(&self, key: Key<'_>, token: &Token) -> Result<()> {
        self.prepare().with_context(|| self.folder.display().to_string())?;
        let content = Zeroizing::new(
            json!({"token": token.token.expose_secret(), "expirationTimestamp": token.expiration_timestamp})
                .to_string(),
        );
        let path = self.folder.join(key.file_name());
        // Its name is of this process alone, so that it is complete before anybody reads it.
        let draft = path.with_extension(std::process::id().to_string());
        let written = write_own(&draft, content.as_bytes()).and_then(|()| fs::rename(&draft, &path));
        if written.is_err() {
            // What is left of it would be in the way of the next process of this id.
            let _ = fs::remove_file(&draft);
        }
        written.with_context(|| path.display().to_string())
    }

    /// Deletes all tokens. Returns how many there were.
    pub(super) fn clear(&self) -> Result<usize> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries.with_context(|| self.folder.display().to_string())?,
        };
        let mut deleted = 0;
        for entry in entries {
            let path = entry?.path();
            if is_entry(&path) {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
                deleted += 1;
            }
        }
        Ok(deleted)
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

/// Whether it is a file of the cache, finished or not.
fn is_entry(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
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

fn write_own(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const KEY: Key<'static> = Key { server: "https://a:6443", username: "jane", audience: None };

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

    fn found(cache: &Cache, key: Key<'_>) -> Option<String> {
        cache.get(key, at("11:00:00")).map(|token| token.token.expose_secret().to_owned())
    }

    #[rstest]
    #[case(Key { server: "https://b", ..KEY })]
    #[case(Key { username: "joan", ..KEY })]
    #[case(Key { audience: Some("other"), ..KEY })]
    #[case(Key { server: "https://a:6443j", username: "ane", audience: None })]
    fn a_name_is_of_one_key(#[case] other: Key<'_>) {
        assert_ne!(KEY.file_name(), other.file_name());
        assert!(is_entry(Path::new(&other.file_name())));
    }

    #[test]
    fn a_token_is_kept_for_its_owner_alone() {
        let (_guard, cache) = cache();
        assert!(found(&cache, KEY).is_none());
        cache.put(KEY, &token("first")).unwrap();
        cache.put(KEY, &token("second")).unwrap();
        assert_eq!(found(&cache, KEY).as_deref(), Some("second"));
        assert!(found(&cache, Key { username: "joan", ..KEY }).is_none());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&cache.folder), 0o700);
        assert_eq!(mode(&cache.folder.join(KEY.file_name())), 0o600);
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 1);
    }

    #[test]
    fn a_token_is_not_used_in_its_last_minute() {
        let (_guard, cache) = cache();
        cache.put(KEY, &token("x")).unwrap();
        assert!(cache.get(KEY, at("11:58:59")).is_some());
        assert!(cache.get(KEY, at("11:59:00")).is_none());
    }

    #[test]
    fn what_others_can_read_is_not_used() {
        let (_guard, cache) = cache();
        cache.put(KEY, &token("x")).unwrap();
        let path = cache.folder.join(KEY.file_name());
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(found(&cache, KEY).is_none(), "{mode:o}");
        }
        cache.put(KEY, &token("y")).unwrap();
        assert_eq!(found(&cache, KEY).as_deref(), Some("y"));
    }

    #[test]
    fn a_link_is_not_followed() {
        let (_guard, cache) = cache();
        cache.put(KEY, &token("x")).unwrap();
        let path = cache.folder.join(KEY.file_name());
        let elsewhere = cache.folder.join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(found(&cache, KEY).is_none());
    }

    #[test]
    fn a_folder_that_others_can_enter_is_closed() {
        let (_guard, cache) = cache();
        fs::create_dir_all(&cache.folder).unwrap();
        fs::set_permissions(&cache.folder, Permissions::from_mode(0o755)).unwrap();
        cache.put(KEY, &token("x")).unwrap();
        assert_eq!(fs::metadata(&cache.folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn clearing_leaves_what_is_not_of_the_cache() {
        let (_guard, cache) = cache();
        assert_eq!(cache.clear().unwrap(), 0);
        cache.put(KEY, &token("x")).unwrap();
        fs::write(cache.folder.join("notes.json"), "{}").unwrap();
        assert_eq!(cache.clear().unwrap(), 1);
        assert!(found(&cache, KEY).is_none() && cache.folder.join("notes.json").exists());
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        assert!(!format!("{:?}", token("s3cret")).contains("s3cret"));
    }
}

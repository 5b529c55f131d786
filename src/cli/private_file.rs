//! Files that may contain password hashes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::Result;

/// Writes a file atomically, readable only by its owner, whatever the permissions of an existing file. Writes directly to
/// anything that is not a regular file, such as a pipe.
///
/// # Errors
/// If the file can't be written, or `content` fails.
pub(super) fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        let mut file: File = OpenOptions::new().write(true).open(path)?;
        return content(&mut file);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    content(&mut draft)?;
    draft.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_can_read_a_replaced_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people.csv");
        std::fs::write(&path, "before").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        write(&path, |out| Ok(out.write_all(b"hashes")?)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hashes");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_failed_write_keeps_the_existing_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people.csv");
        std::fs::write(&path, "before").unwrap();
        let failed = write(&path, |out| {
            out.write_all(b"half")?;
            anyhow::bail!("no more")
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_device_is_not_replaced() {
        write(Path::new("/dev/null"), |out| Ok(out.write_all(b"hashes")?)).unwrap();
        assert!(!Path::new("/dev/null").metadata().unwrap().is_file());
    }
}

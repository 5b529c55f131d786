//! Writes htpasswd and `/etc/passwd`.

use std::io::{self, Write};

use super::record::{Record, Writer};
use crate::rules::Kind;

/// UID of the first user. Roster has no UIDs, so each export numbers its users from here.
const FIRST_UID: u32 = 10_000;

pub(super) struct Htpasswd<W>(W);

impl<W: Write> Htpasswd<W> {
    pub(super) fn new(out: W) -> Self {
        Self(out)
    }
}

impl<W: Write> Writer for Htpasswd<W> {
    /// Skips users without a hash, because some servers accept any password if the hash is empty.
    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        match record.hash.filter(|_| record.kind == Kind::User) {
            Some(hash) => writeln!(self.0, "{}:{hash}", record.username()),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

pub(super) struct Passwd<W> {
    out: W,
    next_uid: u32,
}

impl<W: Write> Passwd<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, next_uid: FIRST_UID }
    }
}

impl<W: Write> Writer for Passwd<W> {
    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        if record.kind == Kind::Group {
            return Ok(());
        }
        let uid = self.next_uid;
        self.next_uid += 1;
        // Colons separate fields, and commas separate the parts of the GECOS field.
        let gecos = record.spec("displayName").replace([':', ','], " ");
        let shell = match record.spec("preferredShell") {
            "" => String::new(),
            path if path.starts_with('/') => path.to_owned(),
            name => format!("/bin/{name}"),
        };
        let lock = if matches!(record.spec("state"), "Disabled" | "Banned") { "!" } else { "" };
        let hash = record.hash.unwrap_or("*");
        let username = record.username();
        writeln!(self.out, "{username}:{lock}{hash}:{uid}:{uid}:{gecos}:/home/{username}:{shell}")
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

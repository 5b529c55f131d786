//! Whether the entry of a person contains the state of the account.
//!
//! In most directories, the attributes by which an account is locked are operational: `ldapsearch '*'` does not return them. An
//! export without them looks as if no account were locked. Each entry counts by itself: another one may be planted, or come from
//! another export.

use super::parser::Record;

/// Operational attributes that servers keep for every entry: RFC 4512, OpenLDAP, 389 Directory Server. An export with one of
/// them has the others as well, unless it names each.
const OF_EVERY_ENTRY: [&str; 11] = [
    "createtimestamp",
    "creatorsname",
    "entrycsn",
    "entrydn",
    "entryid",
    "hassubordinates",
    "modifiersname",
    "modifytimestamp",
    "numsubordinates",
    "structuralobjectclass",
    "subschemasubentry",
];

/// Attributes with the state of an account that are operational, or that the server has for all accounts: OpenLDAP, 389 Directory
/// Server and FreeIPA, Active Directory, AD LDS, eDirectory. The attributes of shadow(5), Samba and Kerberos show nothing:
/// directories that lock accounts by others have them too.
const STATES: [&str; 10] = [
    "logindisabled",
    "loginexpirationtime",
    "msds-useraccountdisabled",
    "nsaccountlock",
    "passwordexpirationtime",
    "pwdaccountlockedtime",
    "pwdendtime",
    "pwdreset",
    "pwdstarttime",
    "useraccountcontrol",
];

/// Returns whether the record of a person shows the state of the account.
pub(super) fn shows_state(record: &Record) -> bool {
    OF_EVERY_ENTRY.iter().chain(&STATES).any(|name| record.first(name).is_some())
}

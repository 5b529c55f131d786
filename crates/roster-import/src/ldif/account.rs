//! Reads the state of an account: whether it is disabled, when it expires, and whether its password must be changed.

use jiff::Timestamp;

use super::parser::{Fault, Record};
use crate::draft::UserDraft;
use crate::expiry::{self, ExpiryError, days, file_time, generalized_time, seconds};

/// Flag ACCOUNTDISABLE of Active Directory's userAccountControl.
const ACCOUNT_DISABLED: i64 = 2;

/// Flag DONT_EXPIRE_PASSWORD of Active Directory's userAccountControl.
const PASSWORD_NEVER_EXPIRES: i64 = 0x1_0000;

/// Further attributes that are read.
const OTHERS: [&str; 5] = ["useraccountcontrol", "pwdaccountlockedtime", "pwdlastset", "pwdstarttime", SAMBA_FLAGS];

/// Parser for the value of an attribute.
type Read = fn(&str) -> Result<Option<Timestamp>, ExpiryError>;

/// Attributes with the expiry of an account: Active Directory, shadow(5), Kerberos and FreeIPA, OpenLDAP, eDirectory,
/// Samba.
const ENDS: [(&str, &str, Read); 6] = [
    ("accountexpires", "accountExpires", file_time),
    ("shadowexpire", "shadowExpire", days),
    ("krbprincipalexpiration", "krbPrincipalExpiration", kerberos_time),
    ("pwdendtime", "pwdEndTime", generalized_time),
    ("loginexpirationtime", "loginExpirationTime", generalized_time),
    ("sambakickofftime", "sambaKickoffTime", seconds),
];

/// Attributes that disable an account, with their value: 389 Directory Server and FreeIPA, eDirectory, AD LDS, Sun Directory
/// Server.
const DISABLING: [(&str, &str); 5] = [
    ("nsaccountlock", "true"),
    ("logindisabled", "true"),
    ("msds-useraccountdisabled", "true"),
    ("inetuserstatus", "inactive"),
    ("inetuserstatus", "deleted"),
];

/// Flags of Samba, such as `[UD         ]`, in which D means disabled.
const SAMBA_FLAGS: &str = "sambaacctflags";

/// Attributes that require a new password at the next login, with their value: OpenLDAP, shadow(5), Samba, 389
/// Directory Server.
const PASSWORD_CHANGE: [(&str, &str); 4] = [
    ("pwdreset", "true"),
    ("shadowlastchange", "0"),
    ("sambapwdlastset", "0"),
    ("passwordexpirationtime", "19700101000000z"),
];

/// Returns whether the line may have had an attribute that is read here.
pub(super) fn reads(fault: &Fault) -> bool {
    let ends = ENDS.iter().map(|(name, ..)| *name);
    let values = DISABLING.iter().chain(&PASSWORD_CHANGE).map(|(name, _)| *name);
    ends.chain(values).chain(OTHERS).any(|name| fault.may_be(&[name]))
}

/// Reads the state of the account, its expiry, and whether its password must be changed.
pub(super) fn read(record: &Record, person: &mut UserDraft) {
    let control = match record.first("useraccountcontrol").map(str::parse::<i64>) {
        None => 0,
        Some(Ok(control)) => control,
        Some(Err(_)) => {
            // The person is rejected, but other attributes may restrict the User.
            person.fault("userAccountControl", "must be a number");
            0
        }
    };
    let has = |(name, value): &(&str, &str)| record.first(name).is_some_and(|text| text.eq_ignore_ascii_case(value));
    // OpenLDAP writes this time for accounts that an administrator locked permanently.
    let is_locked = record.first("pwdaccountlockedtime").is_some_and(|time| time.starts_with("000001010000"));
    let is_off = record.first(SAMBA_FLAGS).is_some_and(|flags| flags.contains(['D', 'd']));
    if control & ACCOUNT_DISABLED != 0 || is_locked || is_off || DISABLING.iter().any(has) {
        person.set("state", "Disabled");
    }
    let is_unset = control & PASSWORD_NEVER_EXPIRES == 0 && has(&("pwdlastset", "0"));
    if is_unset || PASSWORD_CHANGE.iter().any(has) {
        person.set("requirePasswordChange", true);
    }
    let mut end: Option<Timestamp> = None;
    for (name, attribute, read) in ENDS {
        match record.first(name).map(read) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(time))) => end = Some(end.map_or(time, |end| end.min(time))),
            Some(Err(error)) => person.fault(attribute, error.to_string()),
        }
    }
    person.set("validity.notAfter", end.map(expiry::text));
    match record.first("pwdstarttime").map(generalized_time) {
        None => {}
        Some(Ok(Some(time))) => person.set("validity.notBefore", expiry::text(time)),
        // Such an account never becomes valid.
        Some(Ok(None)) => person.set("state", "Disabled"),
        Some(Err(error)) => person.fault("pwdStartTime", error.to_string()),
    }
}

/// Reads a time of Kerberos, which writes 1970-01-01 for never.
fn kerberos_time(text: &str) -> Result<Option<Timestamp>, ExpiryError> {
    generalized_time(text).map(|time| time.filter(|time| *time != Timestamp::UNIX_EPOCH))
}

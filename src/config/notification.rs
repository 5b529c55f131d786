//! Notification flags of `roster run`.

use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;
use roster_runtime::notifications::NotificationOptions;

/// Allowed receivers of notifications.
#[derive(Args, Clone, Debug)]
pub(crate) struct NotificationConfig {
    /// Networks to which notifications may be sent although they are private, loopback, link-local or otherwise not public,
    /// such as 10.96.0.0/12.
    #[arg(long, env = "ROSTER_NOTIFICATION_ALLOWED_CIDRS", value_delimiter = ',', value_parser = network)]
    pub notification_allowed_cidrs: Vec<IpNet>,

    /// PEM file with certificate authorities that are trusted for receivers of notifications, in addition to the public
    /// ones.
    #[arg(long, env = "ROSTER_NOTIFICATION_CA_FILE")]
    pub notification_ca_file: Option<PathBuf>,
}

impl NotificationConfig {
    /// Returns the options of the notifier.
    pub(crate) fn options(&self) -> NotificationOptions {
        NotificationOptions {
            allowed_networks: self.notification_allowed_cidrs.clone(),
            ca_file: self.notification_ca_file.clone(),
        }
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| "must be a network such as 10.96.0.0/12 or fd00::/8".to_owned())?;
    if net.addr() == net.network() { Ok(net) } else { Err(format!("did you mean {}?", net.trunc())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("10.0.0.1", "must be a network such as")]
    #[case("10.0.0.0/33", "must be a network such as")]
    #[case("everywhere", "must be a network such as")]
    #[case("10.1.2.3/8", "did you mean 10.0.0.0/8?")]
    fn invalid_networks_are_rejected_with_a_hint(#[case] text: &str, #[case] message: &str) {
        let error = network(text).unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[rstest]
    #[case("10.0.0.0/8")]
    #[case("10.0.0.1/32")]
    #[case("fd00::/8")]
    fn networks_are_accepted(#[case] text: &str) {
        assert_eq!(network(text).unwrap().to_string(), text);
    }
}

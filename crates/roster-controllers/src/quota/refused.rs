//! Records requests that quota refused, by the controller that made them. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use roster_core::quota::allotment::QuotaRequest;

use super::plan::MAX_RETRY_WAIT;

/// Maximum number of refused requests that are remembered per namespace.
const MAX_REFUSED: usize = 16;

/// A request that quota refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// UID of the object whose controller made the request.
    by: String,
    /// The request.
    pub(super) request: QuotaRequest,
}

/// Records a request. It replaces earlier requests of the same controller, but not those of other controllers in the
/// namespace: they are still waiting, some for more.
pub(super) fn remember(refused: &mut Vec<Refused>, by: String, level: BTreeMap<String, String>, now: Timestamp) {
    let since = refused
        .iter()
        .map(|refused| &refused.request)
        .filter(|request| request.counts_at(now))
        .map(|request| request.since);
    let since = since.min().unwrap_or(now);
    refused.retain(|refused| refused.by != by && now.duration_since(refused.request.at) <= MAX_RETRY_WAIT);
    refused.push(Refused { by, request: QuotaRequest { since, at: now, level } });
    let excess = refused.len().saturating_sub(MAX_REFUSED);
    refused.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_replaces_its_own_request_and_no_other() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let level = |cpu: &str| [("requests.cpu".to_owned(), cpu.to_owned())].into();
        let mut refused = Vec::new();
        remember(&mut refused, "large".to_owned(), level("5"), second(100));
        remember(&mut refused, "small".to_owned(), level("1"), second(101));
        remember(&mut refused, "small".to_owned(), level("2"), second(102));
        let levels = |refused: &[Refused]| -> Vec<String> {
            refused.iter().map(|refused| refused.request.level["requests.cpu"].clone()).collect()
        };
        assert_eq!(levels(&refused), ["5", "2"]);
        assert_eq!(refused[1].request.since, second(100), "the earliest request that is still waiting counts");
        remember(&mut refused, "late".to_owned(), level("3"), second(701));
        assert_eq!(levels(&refused), ["2", "3"], "the first one was not retried");
        for at in 0..100 {
            remember(&mut refused, format!("other-{at}"), level("1"), second(701));
        }
        assert_eq!(refused.len(), MAX_REFUSED);
    }
}

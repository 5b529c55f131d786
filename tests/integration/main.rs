//! Integration tests, against the real kube-apiserver, etcd and kube-controller-manager.
//!
//! One program, so that tests share control planes: `shared` for tests that do not affect each other, and separate ones
//! for tests that kill operators or run without admission. Tests of the design's invariants are named after them
//! (`i1_…`).

mod shared_cluster;
mod support;

mod admission;
mod availability;
mod certificates;
mod chart;
mod cli;
mod crds;
mod credentials;
mod directory;
mod documentation;
mod fixtures;
mod github;
mod gitops;
mod i10_same_answer;
mod i1_audit;
mod i1_plaintext;
mod i2_credentials;
mod i3_revocation;
mod i4_escalation;
mod i5_unique_names;
mod i6_steady_state;
mod i7_any_order;
mod i7_bindings;
mod i9_identity;
mod image;
mod import;
mod informers;
mod install;
mod locks;
mod logins;
mod memberships;
mod operations;
mod origin;
mod ownership;
mod quota;
mod release;
mod requests;
mod rights;
mod role_bindings;
mod scale;
mod structure;
mod users;

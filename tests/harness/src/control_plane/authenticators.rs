//! Configuration of the authenticators by which kube-apiserver accepts Roster's tokens.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::balancer::Balancer;

/// Audience of tokens that kube-apiserver accepts by OpenID Connect, in addition to those checked by the token webhook.
pub const OIDC_AUDIENCE: &str = "kubernetes-oidc";

/// Configuration files of the two authenticators by which kube-apiserver accepts Roster's tokens.
pub(super) struct AuthenticatorFiles {
    /// Structured authentication configuration: OpenID Connect.
    pub(super) configuration: PathBuf,
    /// Kubeconfig of the token webhook.
    pub(super) webhook: PathBuf,
}

impl AuthenticatorFiles {
    /// Writes the files before an operator exists, with an authority that is later installed with the chart.
    pub(super) fn write(dir: &Path, balancer: &Balancer, roster_ca: &Path) -> Result<Self> {
        let url = format!("https://localhost:{}", balancer.port);
        let ca = std::fs::read_to_string(roster_ca)?;
        let indented = ca.lines().fold(String::new(), |all, line| all + "      " + line + "\n");
        let configuration = dir.join("authentication.yaml");
        std::fs::write(
            &configuration,
            format!(
                "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    \
                 url: {url}\n    audiences: [{OIDC_AUDIENCE}]\n    certificateAuthority: |\n{indented}  \
                 claimMappings:\n    username: {{claim: preferred_username, prefix: ''}}\n    \
                 groups: {{claim: groups, prefix: ''}}\n    uid: {{claim: sub}}\n    extra:\n    \
                 - {{key: example.com/recognised-by, valueExpression: claims.amr}}\n"
            ),
        )?;
        let webhook = dir.join("token-webhook.kubeconfig");
        std::fs::write(
            &webhook,
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: roster\n\
                 clusters:\n- name: roster\n  cluster: {{server: '{url}/tokenreview', certificate-authority: {}}}\n\
                 users:\n- {{name: kube-apiserver, user: {{}}}}\n\
                 contexts:\n- {{name: roster, context: {{cluster: roster, user: kube-apiserver}}}}\n",
                roster_ca.display()
            ),
        )?;
        Ok(Self { configuration, webhook })
    }
}

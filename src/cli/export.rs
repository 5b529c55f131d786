//! `roster export`: writes people and groups in formats of other systems.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource};
use roster_api::{API_VERSION, Group, SOURCE_ID_ANNOTATION, User};
use roster_credentials::hash::Ceiling;
use roster_credentials::source::{self, Source};
use roster_import::assemble::{self, Content};
use roster_import::rules::{Kind, Rules};
use roster_import::write::{Record, Target, Writer, writer};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::cluster;
use super::import::PAGE;
use super::private_file;

/// Maximum number of concurrent reads of Secrets.
const CONCURRENCY: usize = 16;

/// Flags of `roster export`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Format to write. CSV, JSON and YAML contain all fields, the others only the fields that they support.
    #[arg(long, value_name = "FORMAT")]
    to: ExportFormat,

    /// Include password hashes, from the password Secrets that Users refer to. Requires permission to get those Secrets.
    #[arg(long)]
    with_hashes: bool,

    /// File to write, readable only by its owner. Default: standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Base DN for LDIF.
    #[arg(long, value_name = "DN", default_value = "dc=example,dc=com")]
    base: String,
}

/// Formats that `--to` accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum ExportFormat {
    /// All fields, one row for each person or group.
    Csv,
    /// All fields, as an array of manifests.
    Json,
    /// All fields, as one YAML document for each manifest.
    Yaml,
    /// People as inetOrgPerson, groups as groupOfMembers.
    Ldif,
    /// Usernames and password hashes.
    Htpasswd,
    /// /etc/passwd.
    Passwd,
}

impl From<ExportFormat> for Target {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Csv => Self::Csv,
            ExportFormat::Json => Self::Json,
            ExportFormat::Yaml => Self::Yaml,
            ExportFormat::Ldif => Self::Ldif,
            ExportFormat::Htpasswd => Self::Htpasswd,
            ExportFormat::Passwd => Self::Passwd,
        }
    }
}

pub(super) fn execute(args: &Args) -> Result<()> {
    match &args.output {
        None => export(args, &mut io::stdout()),
        Some(path) => private_file::write(path, |out| export(args, out)).with_context(|| path.display().to_string()),
    }
}

fn export(args: &Args, out: &mut dyn Write) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut writer = writer(args.to.into(), BufWriter::new(out), args.with_hashes, &args.base, &Rules::default());
    runtime.block_on(async {
        let client = cluster::client("export").await?;
        let mut export = Export { client, with_hashes: args.with_hashes, unread: 0 };
        writer.begin()?;
        export.each::<Group>(Kind::Group, writer.as_mut()).await?;
        export.each::<User>(Kind::User, writer.as_mut()).await?;
        writer.end()?;
        if export.unread > 0 {
            eprintln!(
                "exported {} people without a password hash: their password Secrets can't be read",
                export.unread
            );
        }
        Ok(())
    })
}

struct Export {
    client: Client,
    with_hashes: bool,
    unread: usize,
}

impl Export {
    async fn each<K: Resource<DynamicType = ()>>(&mut self, kind: Kind, writer: &mut dyn Writer) -> Result<()> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::erase::<K>(&()));
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await.with_context(|| format!("{} can't be listed", K::plural(&())))?;
            let next = page.metadata.continue_.filter(|token| !token.is_empty());
            self.page(kind, page.items, writer).await?;
            match next {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    async fn page(&mut self, kind: Kind, objects: Vec<DynamicObject>, writer: &mut dyn Writer) -> Result<()> {
        let client = &self.client;
        let is_wanted = self.with_hashes && kind == Kind::User;
        let mut records = stream::iter(objects)
            .map(async |object| {
                let object = declared(kind, &object);
                let secret = if is_wanted { secret(client, &object).await } else { Ok(None) };
                (object, secret)
            })
            .buffered(CONCURRENCY);
        while let Some((object, secret)) = records.next().await {
            let secret = secret.unwrap_or_else(|()| {
                self.unread += 1;
                None
            });
            let hash = secret.as_ref().and_then(|secret| match &secret.content {
                Content::Hash(hash) => Some(hash.expose_secret()),
                Content::Plain(_) => None,
            });
            let manifest = secret.as_ref().and_then(|secret| Some(secret.manifest(hash?)));
            writer.record(Record { kind, object: &object, secret: manifest.as_ref(), hash })?;
        }
        Ok(())
    }
}

/// Returns the declared part of an object: name, labels, `spec`, and the annotation with the identity in the source
/// from which it was imported.
fn declared(kind: Kind, object: &DynamicObject) -> Value {
    let mut metadata = json!({"name": object.metadata.name});
    if let Some(labels) = object.metadata.labels.as_ref().filter(|labels| !labels.is_empty()) {
        metadata["labels"] = json!(labels);
    }
    // A later import from the same source recognizes the Group by this annotation.
    if let Some(source) = object.metadata.annotations.as_ref().and_then(|known| known.get(SOURCE_ID_ANNOTATION)) {
        metadata["annotations"] = json!({SOURCE_ID_ANNOTATION: source});
    }
    json!({"apiVersion": API_VERSION, "kind": kind.name(), "metadata": metadata, "spec": object.data["spec"]})
}

/// Reads the password Secret of a User, if it refers to one.
///
/// # Errors
/// If the Secret can't be read, is not meant for this User, or contains no hash.
async fn secret(client: &Client, user: &Value) -> Result<Option<assemble::Secret>, ()> {
    let reference = &user["spec"]["passwordSecretRef"];
    let (Some(namespace), Some(name)) = (reference["namespace"].as_str(), reference["name"].as_str()) else {
        return Ok(None);
    };
    let owner = user["metadata"]["name"].as_str().unwrap_or_default();
    let found = Api::<Secret>::namespaced(client.clone(), namespace).get(name).await.map_err(drop)?;
    let hash = match source::read(&found, owner, Ceiling::STORED).map_err(drop)? {
        Source::Hash(hash) => hash,
        Source::Password(_) => return Err(()),
    };
    Ok(Some(assemble::Secret {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        user: owner.to_owned(),
        content: Content::Hash(hash.expose().into()),
    }))
}

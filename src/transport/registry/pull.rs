//! Reading images of a registry as if they were in a layout.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cache::Cache;
use super::client::RegistryClient;
use super::download::Downloads;
use super::name::Name;
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_BLOB_BYTES;
use crate::model::content::Source;
use crate::model::digest::Digest;
use crate::model::oci::{self, Annotations, CONTAINERD_NAME, Descriptor, Index, media_type};
use crate::transport::files::{Documents, Files};

/// An image of a registry. Its manifests are downloaded when they are asked for, its blobs when they are
/// read.
pub(super) struct Remote {
    client: Arc<RegistryClient>,
    repository: String,
    cache: Arc<Cache>,
    downloads: Arc<Downloads>,
    documents: Documents,
    root: Descriptor,
    /// Manifests that have come, and blobs that were asked for.
    known: Mutex<HashMap<Digest, Source>>,
}

impl Remote {
    /// Finds the image.
    ///
    /// # Errors
    /// If there is none of this name, or the registry can't be asked.
    pub(super) fn new(
        client: Arc<RegistryClient>,
        repository: &str,
        name: &Name,
        cache: Arc<Cache>,
        downloads: Arc<Downloads>,
    ) -> Result<Self> {
        let found = client.find(repository, &name.reference())?;
        let mut root = found.descriptor;
        let mut known = HashMap::new();
        if let Some(bytes) = found.bytes {
            cache.add_document(&root.digest, &bytes);
            known.insert(root.digest, Arc::new(bytes) as Source);
        }
        // As an archive that was written by `docker save` or `ctr image export` has it.
        root.annotations =
            name.tagged().map(|tagged| Annotations::from([(CONTAINERD_NAME.to_owned(), tagged)]));
        let (repository, documents) = (repository.to_owned(), Documents::default());
        Ok(Self { client, repository, cache, downloads, documents, root, known: Mutex::new(known) })
    }

    /// Returns a manifest or index.
    fn manifest(&self, digest: &Digest) -> Result<Source> {
        if let Some(known) = self.known().get(digest) {
            return Ok(Arc::clone(known));
        }
        let cached = self.cache.document(digest);
        let bytes = if let Some(bytes) = cached {
            bytes
        } else {
            let found = self.client.manifest(&self.repository, &digest.to_string())?;
            let bytes = found.bytes.unwrap_or_default();
            self.cache.add_document(digest, &bytes);
            bytes
        };
        let source: Source = Arc::new(bytes);
        self.known().insert(*digest, Arc::clone(&source));
        Ok(source)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Source>> {
        // An entry is complete or not there.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for Remote {
    fn get(&self, name: &str) -> Result<Option<Source>> {
        if name != "index.json" {
            return Ok(None);
        }
        let index = Index::new(vec![self.root.clone()]);
        Ok(Some(Arc::new(oci::to_json(&index)?)))
    }

    fn get_blob(&self, d: &Descriptor) -> Result<Option<Source>> {
        if media_type::is_manifest(&d.media_type) || media_type::is_index(&d.media_type) {
            let place = || format!("downloading manifest {}", d.digest);
            return self.manifest(&d.digest).with_context(place).map(Some);
        }
        if d.size > MAX_BLOB_BYTES {
            return Err(Error::limit(format!(
                "the image states {} bytes for {}, more than the limit of {MAX_BLOB_BYTES}",
                d.size, d.digest
            )));
        }
        let blob = || Arc::new(self.downloads.blob(d.digest, d.size)) as Source;
        let known = Arc::clone(self.known().entry(d.digest).or_insert_with(blob));
        // Another descriptor may state another size.
        Ok(Some(if known.size() == d.size { known } else { blob() }))
    }

    fn documents(&self) -> Option<&Documents> {
        Some(&self.documents)
    }
}

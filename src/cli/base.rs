//! The base of an image that is split: named, found, or a number of layers.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;

use super::{Global, load, terminal::Terminal};
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::text::count;
use crate::model::content::Budget;
use crate::model::oci::{BASE_DIGEST, BASE_NAME, Platform};
use crate::split::Base;
use crate::transport::image::{Image, Opened};
use crate::transport::registry::name::Name;
use crate::transport::{ImageLocation, Reference};

/// Options of bases.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bases")]
pub(super) struct BaseArgs {
    /// Keep the lowest layers byte for byte, those that this image has too, and split only what is above
    /// them. Or that many layers; or `auto`, the base that IMAGE's annotations name or one of --bases,
    /// whichever shares the most layers
    #[arg(long, value_name = "IMAGE|N|auto")]
    base: Option<BaseChoice>,
    /// With --base auto: choose from the images that this file lists, one in a line
    #[arg(long, value_name = "FILE", requires = "base")]
    bases: Option<PathBuf>,
}

/// What `--base` says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum BaseChoice {
    Layers(usize),
    Auto,
    Image(Reference),
}

impl FromStr for BaseChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            let layers = text.parse().ok().filter(|n| *n > 0);
            return layers.map(Self::Layers).ok_or_else(|| {
                Error::malformed("write a number of layers from 1; for a file of this name, ./NAME")
            });
        }
        let image: Reference = text.parse()?;
        if image.is_standard() {
            return Err(Error::refused("a base can't be read from standard input"));
        }
        Ok(Self::Image(image))
    }
}

/// An image that may be the base, and its name in a registry.
struct Candidate {
    opened: Opened,
    name: Option<String>,
}

/// The images that were opened to find a base.
pub(super) struct Candidates {
    /// Those that may be the base of every image.
    all: Vec<Candidate>,
    /// That many layers instead.
    layers: Option<usize>,
    /// Whether one must be found.
    required: bool,
}

impl BaseArgs {
    /// Returns the images that are known before the input is opened: those of the command line and of the
    /// file.
    pub(super) fn references(&self) -> Result<Vec<Reference>> {
        match (&self.base, &self.bases) {
            (Some(BaseChoice::Image(image)), None) => Ok(vec![image.clone()]),
            (Some(BaseChoice::Auto), Some(file)) => {
                let place = || format!("reading {}", file.display());
                let text = std::fs::read_to_string(file).with_context(place)?;
                let lines = text.lines().map(str::trim);
                let images = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
                images.map(|line| line.parse().with_context(place)).collect()
            }
            (_, Some(_)) => Err(Error::refused("--bases FILE is for --base auto")),
            _ => Ok(Vec::new()),
        }
    }

    /// Opens what may be the base of `opened`.
    pub(super) fn open(
        &self,
        opened: &Opened,
        references: &[Reference],
        platform: Option<&Platform>,
        budget: &Arc<Budget>,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Candidates> {
        let mut found = Candidates { all: Vec::new(), layers: None, required: true };
        let open = |image: &Reference| -> Result<Candidate> {
            let opened = load::open(image, platform, budget, global)?;
            Ok(Candidate { opened, name: registry_name(image) })
        };
        match &self.base {
            None => {}
            Some(BaseChoice::Layers(n)) => found.layers = Some(*n),
            Some(BaseChoice::Image(image)) => found.all.push(open(image)?),
            Some(BaseChoice::Auto) => {
                found.required = false;
                for image in references {
                    found.all.push(open(image)?);
                }
                for image in annotated(opened) {
                    match open(&image) {
                        Ok(candidate) => found.all.insert(0, candidate),
                        Err(e) => terminal.note(&format!("the base {image} is not used: {e}")),
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Returns the images in registries that annotations or labels name as the base.
fn annotated(opened: &Opened) -> Vec<Reference> {
    let mut images: Vec<Reference> = Vec::new();
    for image in &opened.images {
        let stated = |key: &str| {
            let label = || image.config.get("config")?.get("Labels")?.get(key)?.as_str();
            image.annotations.get(key).map(String::as_str).or_else(label)
        };
        let Some(name) = stated(BASE_NAME).filter(|name| !name.is_empty()) else { continue };
        // Podman names an image so that is in no registry.
        if name.starts_with("localhost/") {
            continue;
        }
        let digest = stated(BASE_DIGEST).map_or_else(String::new, |digest| format!("@{digest}"));
        let repository =
            if name.contains('@') { name.to_owned() } else { name.to_owned() + &digest };
        if let Ok(image) = format!("docker://{repository}").parse()
            && !images.contains(&image)
        {
            images.push(image);
        }
    }
    images
}

/// Returns the name of an image in a registry, without a digest.
pub(super) fn registry_name(image: &Reference) -> Option<String> {
    match &image.location {
        ImageLocation::Registry(name) => Some(Name { digest: None, ..name.clone() }.to_string()),
        _ => None,
    }
}

impl Candidates {
    /// Returns the base of each image.
    ///
    /// # Errors
    /// If the one that was named shares no layer with an image.
    pub(super) fn bases<'a>(
        &'a self,
        opened: &Opened,
        terminal: &Terminal,
    ) -> Result<Vec<Option<Base<'a>>>> {
        let one = |(at, image): (usize, &Image)| -> Result<Option<Base<'a>>> {
            if let Some(layers) = self.layers {
                return Ok(Some(Base { layers, image: None, name: None }));
            }
            let shared = self.all.iter().filter_map(|candidate| {
                let base = candidate.opened.counterpart(&opened.images, at)?;
                Base::shared(image, base, candidate.name.clone())
            });
            // Of several that share as many, the first, or one that is shared as a whole.
            let best = shared.reduce(|best, next| {
                let better = (next.layers, next.is_whole()) > (best.layers, best.is_whole());
                if better { next } else { best }
            });
            match &best {
                None if self.required && !self.all.is_empty() => Err(Error::not_found(format!(
                    "the lowest layer of image {} is not that of --base; is it built on another \
                     version of it?",
                    image.platform
                ))),
                Some(base) if !base.is_whole() => {
                    let of = base.image.map_or(0, |image| image.layers.len());
                    terminal.note(&format!(
                        "the image has only {} of the {} of the base, which stay as they are",
                        base.layers,
                        count(of as u64, "layer")
                    ));
                    Ok(best)
                }
                None if !self.required => {
                    terminal.note("--base auto found no base; the whole image is split");
                    Ok(best)
                }
                _ => Ok(best),
            }
        };
        opened.images.iter().enumerate().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_number_a_word_or_an_image() {
        let parse = |text: &str| text.parse::<BaseChoice>();
        assert_eq!(parse("2").unwrap(), BaseChoice::Layers(2));
        assert_eq!(parse("auto").unwrap(), BaseChoice::Auto);
        assert_eq!(parse("./2").unwrap(), BaseChoice::Image("./2".parse().unwrap()));
        for text in ["0", "-", "", "99999999999999999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

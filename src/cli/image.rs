//! `husk image`: the store from the outside.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use super::get::{Format, Output};
use super::out::{Cell, Out};
use super::{Context, Error, span};
use crate::image::{self, Store};
use crate::runtime::images::user_of;
use crate::state::Roots;

/// Load, import, list and remove images.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk image load busybox.tar && husk image ls")]
pub struct Image {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the images of an OCI layout (directory or tar file) or of a docker archive
    #[command(after_help = "Example:\n  husk image load busybox.tar\n  docker save busybox | husk image load -")]
    Load {
        /// Tar file, plain or gzipped, or directory; - is standard input
        #[arg(value_name = "FILE|DIR")]
        from: PathBuf,
    },
    /// Make an image of one layer out of a root file system
    #[command(after_help = "Example:\n  husk image import rootfs.tar my.example/debian:12")]
    Import {
        /// Tar file, plain or gzipped; - is standard input
        #[arg(value_name = "ROOTFS.tar")]
        tar: PathBuf,
        /// The image's name
        name: String,
    },
    /// List images
    #[command(after_help = "Example:\n  husk image ls -o json")]
    Ls {
        /// json, yaml, wide or name instead of the table
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Output>,
    },
    /// Take names away; an image goes with its last one
    #[command(after_help = "Example:\n  husk image rm my.example/debian:12")]
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

impl Image {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let store = Store::open(&context.roots.root)?;
        let mut out = Out::new();
        match self.command {
            Command::Load { from } => {
                for image in store.load(&input(from))? {
                    loaded(&mut out, &image)?;
                }
            }
            Command::Import { tar, name } => loaded(&mut out, &store.import(&input(tar), &name)?)?,
            Command::Ls { output } => list(&mut out, &store.list()?, output)?,
            Command::Rm { names } => return remove(&mut out, &context.roots, &store, &names),
        }
        out.flush()
    }
}

/// `-` as a file.
fn input(path: PathBuf) -> PathBuf {
    if path == Path::new("-") { PathBuf::from("/dev/stdin") } else { path }
}

fn loaded(out: &mut Out, image: &image::Image) -> Result<(), Error> {
    if image.names.is_empty() {
        return out.line(format!("image/{} loaded", image.id));
    }
    image.names.iter().try_for_each(|name| out.line(format!("image/{name} loaded")))
}

fn list(out: &mut Out, images: &[image::Image], output: Option<Output>) -> Result<(), Error> {
    match output {
        Some(Output::Name) => images.iter().try_for_each(|image| match image.names.as_slice() {
            [] => out.line(&image.id),
            names => names.iter().try_for_each(|name| out.line(name)),
        }),
        Some(format @ (Output::Json | Output::Yaml)) => {
            let format = if format == Output::Json { Format::Json } else { Format::Yaml };
            let images: Vec<_> = images
                .iter()
                .map(|image| {
                    json!({
                        "id": image.id,
                        "names": image.names,
                        "sizeBytes": image.size_bytes,
                        "created": image.created.map(|time| time.to_string()),
                        "loaded": image.loaded.to_string(),
                        "architecture": image.architecture,
                        "os": image.os,
                    })
                })
                .collect();
            out.raw(format.render(&json!({ "images": images }))?.as_bytes())
        }
        None | Some(Output::Wide) => table(out, images, output.is_some()),
    }
}

/// One row a name.
fn table(out: &mut Out, images: &[image::Image], wide: bool) -> Result<(), Error> {
    if images.is_empty() {
        super::out::say("no images: husk image load brings some");
        return Ok(());
    }
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for image in images {
        let names = if image.names.is_empty() { &[String::new()] } else { image.names.as_slice() };
        for name in names {
            let id = if wide { image.id.as_str() } else { short(&image.id) };
            let age = span::age(now.as_second() - image.loaded.as_second());
            let mut row: Vec<Cell> = vec![name.into(), id.into(), size(image.size_bytes).into(), age.into()];
            if wide {
                row.push(format!("{}/{}", image.os, image.architecture).into());
                row.push(image.layers.len().to_string().into());
            }
            rows.push(row);
        }
    }
    let header: &[&str] = if wide {
        &["NAME", "IMAGE ID", "SIZE", "LOADED", "PLATFORM", "LAYERS"]
    } else {
        &["NAME", "IMAGE ID", "SIZE", "LOADED"]
    };
    out.table(header, &rows)
}

/// The first digits of an id: enough for people.
fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// `1.9MB`, in powers of ten as other engines show image sizes.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0}{}", UNITS[unit])
    } else {
        format!("{value:.1}{}", UNITS[unit])
    }
}

fn remove(out: &mut Out, roots: &Roots, store: &Store, names: &[String]) -> Result<(), Error> {
    let mut complaints = Vec::new();
    for name in names {
        match store.remove(name, &|id| user_of(roots, id)) {
            Ok(removed) => {
                removed.untagged.iter().try_for_each(|name| out.line(format!("image/{name} untagged")))?;
                if removed.deleted {
                    out.line(format!("image/{} removed", removed.id))?;
                }
            }
            Err(error) => complaints.push(super::error::sentence(&error)),
        }
    }
    out.flush()?;
    if complaints.is_empty() { Ok(()) } else { Err(Error::Invalid { messages: complaints }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_most() {
        let table = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0kB"),
            (99_940, "99.9kB"),
            (99_960, "100kB"),
            (999_499, "999kB"),
            (999_600, "1.0MB"),
            (1_900_000, "1.9MB"),
            (5_000_000_000_000_000, "5000TB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ids_are_shortened_to_twelve_digits() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("x"), "x");
    }
}

//! Pictures as files, and what the report needs to know of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Result,
    pictures::{self, Picture},
};

/// A picture of the report.
pub struct Figure {
    /// The SVG file, or the PNG file where there is no other.
    pub file: PathBuf,
    /// What it shows and how it is read.
    pub text: String,
}

pub struct Gallery {
    folder: PathBuf,
    png_only: bool,
    pub figures: Vec<Figure>,
}

impl Gallery {
    pub fn new(folder: &Path, png_only: bool) -> Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), png_only, figures: Vec::new() })
    }

    pub fn draw(
        &mut self,
        name: impl AsRef<Path>,
        picture: &impl Picture,
        text: &str,
    ) -> Result<()> {
        let file = |extension: &str| self.folder.join(name.as_ref()).with_extension(extension);
        pictures::save(picture, &file("png"))?;
        println!("picture   {}", file("png").display());
        let mut shown = file("png");
        if !self.png_only {
            shown = file("svg");
            pictures::save(picture, &shown)?;
        }
        self.figures.push(Figure { file: shown, text: text.to_owned() });
        Ok(())
    }
}

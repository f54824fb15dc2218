//! The form of what survives a restart: one JSON document under a line that names its version,
//! length and checksum, so that a torn or foreign file is refused and never half believed.
//! `store/disk.rs` writes and reads it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

pub mod disk;

/// The version of the document's form. A newer one is refused.
pub const VERSION: u32 = 1;

/// Why a stored document is not used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// Not our form at all.
    #[error(
        "not a fairlead state file: the first line is not 'fairlead-state VERSION LENGTH SHA256'"
    )]
    Foreign,
    /// Written by a newer fairlead.
    #[error("written in form {found}, this fairlead reads up to {VERSION}: use the newer binary")]
    Newer {
        /// The version in the file.
        found: u32,
    },
    /// Cut short or changed.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// A document as bytes.
pub fn encode<T: Serialize>(document: &T) -> Result<Vec<u8>, StoreError> {
    let body =
        serde_json::to_vec_pretty(document).map_err(|e| StoreError::Damaged(e.to_string()))?;
    let mut bytes = format!(
        "fairlead-state {VERSION} {} {}\n",
        body.len(),
        checksum(&body)
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// A document from bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    let end = bytes
        .iter()
        .position(|&b| b == b'\n')
        .ok_or(StoreError::Foreign)?;
    let (line, rest) = bytes.split_at_checked(end).ok_or(StoreError::Foreign)?;
    let body = rest.get(1..).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| StoreError::Foreign)?;
    let mut words = line.split(' ');
    if words.next() != Some("fairlead-state") {
        return Err(StoreError::Foreign);
    }
    let version: u32 = words
        .next()
        .and_then(|w| w.parse().ok())
        .ok_or(StoreError::Foreign)?;
    if version > VERSION {
        return Err(StoreError::Newer { found: version });
    }
    let length: usize = words
        .next()
        .and_then(|w| w.parse().ok())
        .ok_or(StoreError::Foreign)?;
    let sum = words.next().ok_or(StoreError::Foreign)?;
    if body.len() != length {
        return Err(StoreError::Damaged(format!(
            "{} bytes of {length}",
            body.len()
        )));
    }
    if checksum(body) != sum {
        return Err(StoreError::Damaged(
            "the checksum does not match".to_owned(),
        ));
    }
    serde_json::from_slice(body).map_err(|e| StoreError::Damaged(e.to_string()))
}

fn checksum(body: &[u8]) -> String {
    Sha256::digest(body)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn document() -> BTreeMap<String, u32> {
        BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)])
    }

    #[test]
    fn a_document_comes_back_as_it_was() {
        let bytes = encode(&document()).unwrap();
        assert_eq!(decode::<BTreeMap<String, u32>>(&bytes), Ok(document()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = encode(&document()).unwrap();
        for at in 0..bytes.len() {
            assert!(
                decode::<BTreeMap<String, u32>>(&bytes[..at]).is_err(),
                "cut at {at}"
            );
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let read = decode::<BTreeMap<String, u32>>(&flipped);
                // A lower version number in the head is no damage to the content.
                assert!(
                    read.is_err() || read == Ok(document()),
                    "bit {bit} of byte {at} gave {read:?}"
                );
            }
        }
    }

    #[test]
    fn a_newer_form_is_refused_by_name() {
        let text = b"fairlead-state 2 2 x\n{}";
        assert_eq!(
            decode::<BTreeMap<String, u32>>(text),
            Err(StoreError::Newer { found: 2 })
        );
    }
}

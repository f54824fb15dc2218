//! The names of the functions in a BPF object (ELF-64, little-endian: elf(5)).

use anyhow::{Context, Result, ensure};

/// `SHT_SYMTAB`.
const SYMBOLS: u32 = 2;
/// `STT_FUNC`.
const FUNCTION: u8 = 2;

struct Section<'o> {
    kind: u32,
    link: u32,
    bytes: &'o [u8],
}

fn number<const N: usize>(bytes: &[u8], offset: usize) -> Result<u64> {
    let window = bytes
        .get(offset..offset + N)
        .context("the object is truncated")?;
    Ok(window
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn sections(object: &[u8]) -> Result<Vec<Section<'_>>> {
    ensure!(
        object.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit little-endian ELF object"
    );
    let first = usize::try_from(number::<8>(object, 40)?)?;
    let size = usize::try_from(number::<2>(object, 58)?)?;
    let count = usize::try_from(number::<2>(object, 60)?)?;
    (0..count)
        .map(|index| {
            let header = object
                .get(first + index * size..)
                .context("the object is truncated")?;
            let offset = usize::try_from(number::<8>(header, 24)?)?;
            let length = usize::try_from(number::<8>(header, 32)?)?;
            Ok(Section {
                kind: u32::try_from(number::<4>(header, 4)?)?,
                link: u32::try_from(number::<4>(header, 40)?)?,
                bytes: object.get(offset..offset + length).unwrap_or_default(),
            })
        })
        .collect()
}

/// Every function with its size in bytes.
pub fn functions(object: &[u8]) -> Result<Vec<(String, u64)>> {
    let sections = sections(object)?;
    let symbols = sections
        .iter()
        .find(|section| section.kind == SYMBOLS)
        .context("the object has no symbols")?;
    let names = sections
        .get(symbols.link as usize)
        .context("the object has no symbol names")?;
    let mut functions = Vec::new();
    for symbol in symbols.bytes.chunks_exact(24) {
        if symbol[4] & 15 != FUNCTION {
            continue;
        }
        let start = usize::try_from(number::<4>(symbol, 0)?)?;
        let name = names
            .bytes
            .get(start..)
            .context("a name outside the object")?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        functions.push((
            String::from_utf8_lossy(name).into_owned(),
            number::<8>(symbol, 16)?,
        ));
    }
    Ok(functions)
}

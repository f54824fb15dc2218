//! Where a field lies in a structure of the running kernel, by its own description of its types (BTF, `Documentation/bpf/btf.rst` in
//! Linux). Pure.
//!
//! Three fields are wanted. A library that reads all types was tried: it takes 0.9 s and 57 MB for these.

/// `BTF_MAGIC`, in the byte order of all machines that this runs on.
const MAGIC: [u8; 2] = [0x9f, 0xeb];
/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;
/// `BTF_KIND_UNION`.
const UNION: u32 = 5;
/// Kinds that are another type under another name: typedef, volatile, const, restrict, type tag.
const NAMES: [u32; 5] = [8, 9, 10, 11, 18];

/// Offset in bytes of a field: the name of a structure, then of a field, of a field in that, and so on. `None`: there is no such
/// field, or `types` is not what it should be.
pub(super) fn offset(types: &[u8], path: &[&str]) -> Option<u32> {
    let description = Description::read(types)?;
    let (structure, fields) = path.split_first()?;
    let mut at = description.structure(structure)?;
    let mut bits: u32 = 0;
    for field in fields {
        let (more, kind) = description.field(at, field)?;
        bits = bits.checked_add(more)?;
        at = kind;
    }
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The description, with the place of each type.
struct Description<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where type n + 1 begins in `types`.
    places: Vec<u32>,
}

/// The word with this number from a place on.
fn word(bytes: &[u8], at: usize, number: usize) -> Option<u32> {
    let at = at.checked_add(number.checked_mul(4)?)?;
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

impl<'a> Description<'a> {
    fn read(all: &'a [u8]) -> Option<Self> {
        if all.get(..2)? != MAGIC {
            return None;
        }
        let header = word(all, 0, 1)? as usize;
        let section = |number: usize| {
            let begin = header.checked_add(word(all, 8, number)? as usize)?;
            let length = word(all, 12, number)? as usize;
            all.get(begin..begin.checked_add(length)?)
        };
        let (types, strings) = (section(0)?, section(2)?);
        let mut places = Vec::new();
        let mut at: usize = 0;
        while at < types.len() {
            places.push(u32::try_from(at).ok()?);
            at = at.checked_add(size(word(types, at, 1)?)?)?;
        }
        Some(Self {
            types,
            strings,
            places,
        })
    }

    fn has_name(&self, at: u32, name: &str) -> bool {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The type of a structure with this name.
    fn structure(&self, name: &str) -> Option<u32> {
        let found = self.places.iter().position(|place| {
            let at = *place as usize;
            let kind = word(self.types, at, 1).map(kind);
            kind == Some(STRUCT)
                && word(self.types, at, 0).is_some_and(|text| self.has_name(text, name))
        })?;
        u32::try_from(found).ok()?.checked_add(1)
    }

    /// A field's offset in bits and its type. Fields of structures without a name within it count as its own.
    fn field(&self, of: u32, name: &str) -> Option<(u32, u32)> {
        let mut at = *self.places.get(of.checked_sub(1)? as usize)? as usize;
        let mut info = word(self.types, at, 1)?;
        // A chain of names ends.
        for _name in 0..16 {
            if !NAMES.contains(&kind(info)) {
                break;
            }
            let inner = word(self.types, at, 2)?;
            at = *self.places.get(inner.checked_sub(1)? as usize)? as usize;
            info = word(self.types, at, 1)?;
        }
        if !matches!(kind(info), STRUCT | UNION) {
            return None;
        }
        let has_bit_fields = info >> 31 != 0;
        for number in 0..count(info) {
            // Three words each, behind the three of the type.
            let first = number.checked_add(1)?.checked_mul(3)?;
            let member = |number: usize| word(self.types, at, first.checked_add(number)?);
            let (text, inner, bits) = (member(0)?, member(1)?, member(2)?);
            let bits = if has_bit_fields {
                bits & 0xff_ffff
            } else {
                bits
            };
            if self.has_name(text, name) {
                return Some((bits, inner));
            }
            if self.has_name(text, "")
                && let Some((more, inner)) = self.field(inner, name)
            {
                return Some((bits.checked_add(more)?, inner));
            }
        }
        None
    }
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

const fn count(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// Bytes of a type, of which the first twelve say what it is. `None`: of a kind that is not known, behind which nothing can be found.
fn size(info: u32) -> Option<usize> {
    let more = match kind(info) {
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, tag of a declaration.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        STRUCT | UNION => count(info).checked_mul(12)?,
        // Enumeration, parameters of a function.
        6 | 13 => count(info).checked_mul(8)?,
        // Section, enumeration of 64 bits.
        15 | 19 => count(info).checked_mul(12)?,
        _ => return None,
    };
    more.checked_add(12)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRINGS: &[u8] = b"\0device\0index\0net\0inode\0name\0";
    const DEVICE: u32 = 1;
    const INDEX: u32 = 8;
    const NET: u32 = 14;
    const INODE: u32 = 18;
    const NAME: u32 = 24;

    fn described(types: &[u32]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (length, strings) = (types.len() as u32, STRINGS.len() as u32);
        let header = [24, 0, length, length, strings];
        let header = header.into_iter().flat_map(u32::to_le_bytes);
        [
            &[0x9f, 0xeb, 1, 0][..],
            &header.collect::<Vec<u8>>(),
            &types,
            STRINGS,
        ]
        .concat()
    }

    /// An integer; `net { inode }`; a name for that; an unnamed union with it; `device { index; union { net } }`.
    fn usual() -> Vec<u8> {
        let (int, structure, union, typedef) = (1 << 24, 4 << 24, 5 << 24, 8 << 24);
        described(
            &[
                [0, int, 4, 32].to_vec(),
                [NET, structure | 1, 4, INODE, 1, 64].to_vec(),
                [NAME, typedef, 2].to_vec(),
                [0, union | 1, 8, NET, 3, 0].to_vec(),
                [
                    DEVICE,
                    structure | 2 | 1 << 31,
                    8,
                    INDEX,
                    1,
                    32 << 24 | 96,
                    0,
                    4,
                    128,
                ]
                .to_vec(),
            ]
            .concat(),
        )
    }

    #[test]
    fn fields_are_found_through_names_and_unnamed_unions() {
        let types = usual();
        for (path, expected) in [
            (&["device", "index"][..], Some(12)),
            (&["device", "net"], Some(16)),
            (&["device", "net", "inode"], Some(24)),
            (&["net", "inode"], Some(8)),
            (&["device", "inode"], None),
            (&["device", "index", "inode"], None),
            (&["name", "inode"], None),
        ] {
            assert_eq!(offset(&types, path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_description_that_is_cut_or_odd_has_nothing() {
        let types = usual();
        for length in 0..types.len() {
            let _anything = offset(&types[..length], &["device", "net", "inode"]);
        }
        for at in 0..types.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut odd = types.clone();
                odd[at] = value;
                let _anything = offset(&odd, &["device", "net", "inode"]);
            }
        }
        assert_eq!(offset(&[], &["device", "index"]), None);
        let unknown = described(&[0, 20 << 24, 0]);
        assert_eq!(offset(&unknown, &["device", "index"]), None);
    }
}

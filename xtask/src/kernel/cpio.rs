//! An archive as the kernel unpacks it at boot: cpio in the form "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Pure: bytes in, bytes out.

use anyhow::Context;

/// `S_IFDIR`, `S_IFREG`, `S_IFCHR` of inode(7).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const DEVICE: u32 = 0o020_000;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive under construction; everything in it belongs to root.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// Folders that are in it.
    folders: std::collections::BTreeSet<String>,
    /// The number of the last entry.
    inode: u32,
}

impl Archive {
    /// Adds a folder and those above it. Paths here are absolute, and go into the archive without their first `/`.
    pub(super) fn folder(&mut self, path: &str) -> anyhow::Result<()> {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let name = path.get(..end).unwrap_or_default();
            if !name.is_empty() && self.folders.insert(name.to_owned()) {
                self.entry(name, FOLDER | 0o755, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file that anyone may read and run, and the folders above it.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = path.trim_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        self.entry(path, FILE | 0o755, (0, 0), content)
    }

    /// Adds a character device of this major and minor number.
    pub(super) fn device(&mut self, path: &str, number: (u32, u32)) -> anyhow::Result<()> {
        let path = path.trim_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        self.entry(path, DEVICE | 0o600, number, &[])
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        self.entry(TRAILER, 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> anyhow::Result<()> {
        self.inode = self.inode.wrapping_add(1);
        let links = 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        // With the zero byte that ends it.
        let length = u32::try_from(name.len().saturating_add(1)).context("a name is too long")?;
        let numbers = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, length, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes
                .extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a header: the magic and 13 numbers of 8 hexadecimal digits.
    const HEADER: usize = 6 + 13 * 8;

    #[test]
    fn folders_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file("/a/b/one", b"12345").unwrap();
        archive.file("/a/b/two", b"").unwrap();
        archive.device("/dev/console", (5, 1)).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        // Walks the archive as the kernel does.
        let (mut at, mut names) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let number = |index: usize| {
                let begin = at + 6 + 8 * index;
                let digits = std::str::from_utf8(&bytes[begin..begin + 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (size, length) = (number(6), number(11));
            let name = &bytes[at + HEADER..at + HEADER + length - 1];
            let name = std::str::from_utf8(name).unwrap();
            if name == TRAILER {
                break;
            }
            names.push((name.to_owned(), number(1), size, (number(9), number(10))));
            at = (at + HEADER + length).next_multiple_of(4);
            if name == "a/b/one" {
                assert_eq!(&bytes[at..at + size], b"12345");
            }
            at = (at + size).next_multiple_of(4);
        }
        let expected = [
            ("a", 0o040_755, 0, (0, 0)),
            ("a/b", 0o040_755, 0, (0, 0)),
            ("a/b/one", 0o100_755, 5, (0, 0)),
            ("a/b/two", 0o100_755, 0, (0, 0)),
            ("dev", 0o040_755, 0, (0, 0)),
            ("dev/console", 0o020_600, 0, (5, 1)),
        ];
        assert_eq!(
            names,
            expected.map(|(name, mode, size, device)| (name.to_owned(), mode, size, device))
        );
    }
}

//! The thread that writes all files of the state directory, one after the other, in the order in
//! which they were handed over. When the disk hangs, this thread hangs, and nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Disk;
use crate::health::runner::now_ns;
use crate::store::StoreError;
use crate::store::disk::{self, DiskError};

/// Makes the content of a file, on the writer's thread.
pub type Content = Box<dyn FnOnce() -> Result<Vec<u8>, StoreError> + Send>;
/// Told how a write ended, on the writer's thread.
pub type Told = Box<dyn FnOnce(Result<(), DiskError>) + Send>;

/// Where files are put: the disk, or in tests something slower.
pub trait Files: Send + 'static {
    /// Puts a file in its place: after this returns, a crash leaves the new one, before it the old one.
    fn put(&mut self, path: &Path, content: &[u8]) -> Result<(), DiskError>;
}

/// The disk, for as long as this daemon owns what is on it.
pub struct Owned<F>(pub F);

impl<F: Fn() -> bool + Send + 'static> Files for Owned<F> {
    fn put(&mut self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        if !(self.0)() {
            return Err(DiskError::NotOurs {
                path: path.to_owned(),
            });
        }
        disk::write_bytes(path, content)
    }
}

struct Job {
    path: PathBuf,
    content: Content,
    told: Told,
}

/// The way to the thread. It ends after the last of these is dropped and all is written.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    disk: Arc<Mutex<Disk>>,
}

impl Writer {
    /// Starts the thread. `measured` is told how long each write took and whether it succeeded. The
    /// receiver hears when the thread has ended.
    pub fn spawn(
        mut files: impl Files,
        measured: impl Fn(Duration, bool) + Send + 'static,
    ) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ended, end) = oneshot::channel();
        let disk = Arc::new(Mutex::new(Disk::default()));
        let shown = Arc::clone(&disk);
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                for job in queue {
                    let began = now_ns();
                    lock(&shown).busy = Some((job.path.clone(), began));
                    let result = (job.content)()
                        .map_err(|source| DiskError::Content {
                            path: job.path.clone(),
                            source,
                        })
                        .and_then(|content| files.put(&job.path, &content));
                    let took = Duration::from_nanos(now_ns().saturating_sub(began));
                    measured(took, result.is_ok());
                    note(&mut lock(&shown), &job.path, &result);
                    (job.told)(result);
                }
                // Nobody may be left to hear it.
                let _ = ended.send(());
            })?;
        Ok((Self { jobs, disk }, end))
    }

    /// Hands a file over. `told` is always called, but when the thread has ended, which it does not
    /// while there is a [`Writer`].
    pub fn write(&self, path: &Path, content: Content, told: Told) {
        let path = path.to_owned();
        let job = Job {
            path,
            content,
            told,
        };
        if self.jobs.send(job).is_err() {
            tracing::error!("the thread that writes files has ended: nothing is saved any more");
        }
    }

    /// How it stands.
    pub fn disk(&self) -> Disk {
        lock(&self.disk).clone()
    }
}

fn note(disk: &mut Disk, path: &Path, result: &Result<(), DiskError>) {
    disk.busy = None;
    disk.failed.retain(|(failed, _)| failed != path);
    if let Err(error) = result {
        disk.failed.push((path.to_owned(), error.to_string()));
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::time::Instant;

    use super::*;

    /// A disk that hangs while its gate is shut.
    #[derive(Clone, Default)]
    struct Slow {
        shut: Arc<(Mutex<bool>, Condvar)>,
        written: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Slow {
        fn set(&self, shut: bool) {
            *self.shut.0.lock().unwrap() = shut;
            self.shut.1.notify_all();
        }
    }

    impl Files for Slow {
        fn put(&mut self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
            let shut = self.shut.0.lock().unwrap();
            drop(self.shut.1.wait_while(shut, |shut| *shut).unwrap());
            if content == b"bad" {
                return Err(DiskError::NotOurs {
                    path: path.to_owned(),
                });
            }
            self.written.lock().unwrap().push(content.to_vec());
            Ok(())
        }
    }

    fn content(text: &'static str) -> Content {
        Box::new(|| Ok(text.as_bytes().to_vec()))
    }

    fn wait_for(mut what: impl FnMut() -> bool) {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        }
    }

    #[test]
    fn a_disk_that_hangs_holds_nobody_up_and_everything_is_written_in_order_when_it_returns() {
        let slow = Slow::default();
        slow.set(true);
        let (writer, mut end) = Writer::spawn(slow.clone(), |_, _| ()).unwrap();
        let (told, results) = mpsc::channel();
        for (path, text) in [("/a", "1"), ("/b", "bad"), ("/a", "2")] {
            let told = told.clone();
            let heard: Told = Box::new(move |result| told.send(result.is_ok()).unwrap());
            writer.write(Path::new(path), content(text), heard);
        }
        wait_for(|| writer.disk().busy.is_some());
        let disk = writer.disk();
        let (path, since) = disk.busy.clone().unwrap();
        assert_eq!(path, Path::new("/a"));
        assert_eq!(disk.trouble(since + super::super::LATE), None);
        let trouble = disk.trouble(since + 3_500_000_000).unwrap();
        assert_eq!(
            trouble,
            "/a has been being written for 3.5 s: the disk hangs"
        );
        assert!(results.try_recv().is_err(), "nothing is written yet");
        slow.set(false);
        let ended: Vec<bool> = results.iter().take(3).collect();
        assert_eq!(ended, [true, false, true]);
        assert_eq!(*slow.written.lock().unwrap(), [b"1", b"2"]);
        let trouble = writer.disk().trouble(now_ns()).unwrap();
        assert!(
            trouble.starts_with("/b could not be written: "),
            "{trouble}"
        );
        drop(writer);
        wait_for(|| end.try_recv().is_ok());
    }
}

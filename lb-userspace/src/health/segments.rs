//! A connection whose writes can be kept to one segment each: [`Segments`]. So a packet is as large as it is meant to be. Of what
//! is longer, the kernel makes a bundle that is cut on its way out, and the headers of a tunnel take their part from
//! every piece of it.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::full_size::Trial;
use super::unacked::unacked;

/// A connection.
#[derive(Debug)]
pub(crate) struct Segments {
    stream: TcpStream,
    /// Says how much data a segment has at most, and is told whether full ones arrive; `None`: they are as the kernel likes.
    trial: Option<Arc<Trial>>,
    /// Bytes written after the last full segment; `None`: none was written.
    after: Option<u32>,
}

impl Segments {
    /// Writes of more bytes than the trial wants become several.
    pub(super) fn new(stream: TcpStream, trial: Option<Arc<Trial>>) -> Self {
        Self {
            stream,
            trial,
            after: None,
        }
    }

    /// The most bytes of a segment.
    fn most(&self) -> Option<usize> {
        self.trial.as_ref().map(|trial| trial.data().max(1))
    }

    /// So many bytes were written, of `most` that a segment may have.
    fn wrote(&mut self, bytes: usize, most: usize) {
        let more = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.after = match self.after {
            _ if bytes == most => Some(0),
            after => after.map(|after| after.saturating_add(more)),
        };
    }

    /// Tells the trial whether the other end has acknowledged all full segments.
    fn look(&self) {
        let Some(trial) = &self.trial else {
            return;
        };
        // What cannot be asked is not known to have arrived.
        let is_missing = |after| unacked(&self.stream).map_or(true, |bytes| bytes > after);
        trial.looked(self.after.is_some_and(is_missing));
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        self.look();
        self.trial.as_ref().inspect(|trial| trial.ended());
    }
}

impl AsyncRead for Segments {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.look();
        }
        read
    }
}

impl AsyncWrite for Segments {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(most) = self.most() else {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        };
        let piece = bytes.get(..most).unwrap_or(bytes);
        // Nothing is added to a segment that ends a record.
        let flags = MsgFlags::MSG_EOR | MsgFlags::MSG_NOSIGNAL;
        let stream = &self.stream;
        loop {
            ready!(stream.poll_write_ready(context))?;
            let sent = stream.try_io(Interest::WRITABLE, || {
                Ok(send(stream.as_raw_fd(), piece, flags)?)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(bytes) => {
                    self.wrote(bytes, most);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.trial {
            None => Pin::new(&mut self.stream).poll_write_vectored(context, parts),
            Some(_) => {
                let first = parts.iter().find(|part| !part.is_empty());
                self.poll_write(context, first.map_or(&[], |part| part))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.trial.is_none() && self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The FIN counts as a byte.
        self.after = self.after.map(|after| after.saturating_add(1));
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

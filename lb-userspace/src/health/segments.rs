//! A connection whose writes can be kept to one segment each: [`Segments`]. So a packet is as large as it is meant to be. Of what
//! is longer, the kernel makes a bundle that is cut on its way out, and the headers of a tunnel take their part from
//! every piece of it.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A connection.
#[derive(Debug)]
pub(crate) struct Segments {
    stream: TcpStream,
    /// The most bytes of a segment; `None`: what the kernel likes.
    most: Option<usize>,
}

impl Segments {
    /// Writes of more than `most` bytes become several.
    pub(super) fn new(stream: TcpStream, most: Option<usize>) -> Self {
        Self { stream, most }
    }
}

impl AsyncRead for Segments {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Segments {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(most) = self.most else {
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
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.most {
            None => Pin::new(&mut self.stream).poll_write_vectored(context, parts),
            Some(_) => {
                let first = parts.iter().find(|part| !part.is_empty());
                self.poll_write(context, first.map_or(&[], |part| part))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.most.is_none() && self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

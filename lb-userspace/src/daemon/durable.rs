//! What the owner does when writes of files end: answers, new ids, the first image.

use tokio::sync::mpsc;

use super::owner::Owner;
use super::saver::{self, Waiter};
use crate::health::runner::now_ns;

impl Owner<'_> {
    pub(super) fn wait_for_numbers(&mut self) {
        self.saver.state.changed(now_ns());
        // It was just changed: there is something to wait for.
        drop(self.saver.state.wait(None, Waiter::Numbers));
        self.numbers = self.numbers.saturating_add(1);
    }

    /// Begins the writes of files that are due.
    pub(super) fn save(&mut self) {
        let reconciler = &mut self.parts.reconciler;
        self.saver.begin(|now| reconciler.take_changes(now));
    }

    /// A write of a file has ended: whoever waited for it goes on.
    pub(super) fn saved(&mut self, outcome: saver::Outcome) -> anyhow::Result<()> {
        let (ended, error) = self.saver.ended(outcome);
        for waiter in ended.saved {
            match waiter {
                Waiter::Order(reply, done) => drop(reply.send(Ok(done))),
                Waiter::Reservation(number) => self.reservation_ended(number, None)?,
                Waiter::Numbers => self.numbers_saved()?,
            }
        }
        let error = error.unwrap_or_default();
        for waiter in ended.failed {
            match waiter {
                Waiter::Order(reply, done) => {
                    drop(reply.send(Err(saver::not_saved(&done, &error))))
                }
                Waiter::Reservation(number) => self.reservation_ended(number, Some(&error))?,
                Waiter::Numbers => {
                    anyhow::ensure!(
                        self.begun() || self.parts.adopted,
                        "the state could not be saved; nothing was attached or changed: {error}"
                    );
                    // It is tried again.
                    drop(self.saver.state.wait(None, waiter));
                }
            }
        }
        Ok(())
    }

    fn numbers_saved(&mut self) -> anyhow::Result<()> {
        self.numbers = self.numbers.saturating_sub(1);
        if self.numbers > 0 {
            return Ok(());
        }
        self.parts.reconciler.saved();
        match self.begun() {
            true => self.write(),
            false => self.go_on_beginning(),
        }
    }

    /// Everything is on disk when this ends, unless the disk fails.
    pub(super) async fn save_the_last(
        &mut self,
        saves: &mut mpsc::UnboundedReceiver<saver::Outcome>,
    ) {
        self.save();
        while self.saver.is_writing()
            && let Some(outcome) = saves.recv().await
        {
            let (ended, error) = self.saver.ended(outcome);
            for waiter in ended.saved {
                if let Waiter::Order(reply, done) = waiter {
                    drop(reply.send(Ok(done)));
                }
            }
            if error.is_none() {
                self.save();
            }
        }
    }
}

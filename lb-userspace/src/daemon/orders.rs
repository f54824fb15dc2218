//! What people ask the owner for, and what they are answered.

use super::owner::Owner;
use super::reload::Asked;
use super::saver::{self, PATIENCE, Waiter};
use crate::api::server::Request;
use crate::api::{Admin, Done, Refused, Reload};
use crate::event::Effect;
use crate::health::runner::now_ns;
use crate::model::{AdminState, Name};
use crate::state::StateError;

impl Owner<'_> {
    pub(super) fn answer(&mut self, request: Request) -> anyhow::Result<()> {
        match request {
            Request::Status(reply) => self.report(reply),
            Request::Why(whom, reply) => self.explain(&whom, reply),
            Request::Admin(order, reply) => self.admin(&order, reply)?,
            Request::Failback(order, reply) => self.failback(&order.service, reply)?,
            Request::Reload(Reload { allow_shrink }, reply) => self.reload(Asked {
                allow_shrink,
                reply: Some(reply),
            }),
        }
        Ok(())
    }

    /// A person's order takes effect at once, and is answered when it is on disk. `Err` ends the daemon.
    fn admin(&mut self, order: &Admin, reply: saver::Reply) -> anyhow::Result<()> {
        let now = now_ns();
        let deadline = order
            .deadline_ms
            .map(|ms| now.saturating_add(ms.saturating_mul(1_000_000)));
        let ordered =
            self.parts
                .reconciler
                .command(now, &order.backend, order.state, deadline, order.force);
        let what = match order.state {
            AdminState::Enabled => "enabled",
            AdminState::Draining => "draining",
            AdminState::Disabled => "disabled",
        };
        let message = format!("{}: {what}", order.backend);
        self.ordered(now, ordered, message, reply)
    }

    /// As [`Self::admin`]: the flows of a service return.
    fn failback(&mut self, service: &Name, reply: saver::Reply) -> anyhow::Result<()> {
        let now = now_ns();
        let ordered = self.parts.reconciler.failback(now, service);
        let state = self.parts.reconciler.state();
        let to = state
            .mode(service)
            .map_or(String::new(), |mode| mode.to_string());
        let message = format!("{service}: new flows go to {to}");
        self.ordered(now, ordered, message, reply)
    }

    /// What a person ordered has been taken in, or refused. `Err` ends the daemon.
    fn ordered(
        &mut self,
        now: u64,
        ordered: Result<Vec<Effect>, StateError>,
        message: String,
        reply: saver::Reply,
    ) -> anyhow::Result<()> {
        let effects = match ordered {
            Ok(effects) => effects,
            Err(error) => {
                let error = error.to_string();
                drop(reply.send(Err(Refused { error })));
                return Ok(());
            }
        };
        self.write_words()?;
        self.must_save(&effects);
        self.write()?;
        self.carry_out(effects);
        let waiter = Waiter::Order(reply, Done { message });
        let until = Some(now.saturating_add(PATIENCE));
        if let Some(Waiter::Order(reply, done)) = self.saver.state.wait(until, waiter) {
            drop(reply.send(Ok(done)));
        }
        Ok(())
    }
}

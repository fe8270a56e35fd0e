//! What is meant to be in force, followed by a running `watch`: the config of the last `start`, its own at SIGHUP, or
//! nothing after a `stop`.

use std::rc::Rc;

use super::run::Watch;
use crate::engine::{choice, transaction};
use crate::error::Error;
use crate::host::state::MEANT;
use crate::serve::{self, Config};
use crate::sys::log;
use crate::sys::poll::clock;
use crate::watch::checker::{self, Seen};
use crate::watch::claim::Known;

impl Watch<'_> {
    /// Writes down what is going to be meant. Without space for it an empty file says that it is in our memory.
    pub(super) fn draft(&mut self) -> Result<(), Error> {
        let Err(error) = self.folder.draft(&self.text) else { return Ok(()) };
        self.folder.draft(b"")?;
        self.cannot_write(error);
        Ok(())
    }

    /// Reads what is meant and follows it. Only under the lock: a `stop` or `start` that is at work is waited for this way.
    /// Tells whether anything is meant.
    pub(super) fn heed(&mut self) -> Result<bool, Error> {
        serve::heal(&self.folder, &self.engines)?;
        let (stamp, meant) = (self.folder.stamp()?, self.folder.meant()?);
        let reread = std::mem::take(&mut self.reread);
        let news = stamp != self.stamp;
        self.stamp = stamp;
        match meant {
            Some(text) if text.is_empty() || text == self.text => self.wake_up(),
            Some(text) => {
                let Config { text, engine, services } = serve::judged(MEANT, text)?;
                self.write_by(engine)?;
                self.wake_up();
                log::info!("took the config of the last start");
                self.text = text;
                let seen = self.seen();
                self.take(services, &seen);
            }
            None if self.resting.is_none() => self.rest(),
            None => {}
        }
        if reread && !news {
            self.read_anew();
        }
        Ok(self.resting.is_none())
    }

    /// Nothing is meant to be in force.
    pub(super) fn rest(&mut self) {
        self.resting = Some(clock());
        self.checked.iter_mut().flat_map(|group| &mut group.backends).for_each(|one| one.check = None);
        log::info!("the rules were stopped; watching goes on when they are started");
    }

    /// SIGHUP: a start of our own config. If it is broken or refused, all stays as it is.
    fn read_anew(&mut self) {
        let read = serve::load(self.path).and_then(|Config { text, engine, mut services }| {
            log::info!("read the config anew");
            if text == self.text && self.resting.is_none() {
                return Ok(());
            }
            let engines = choice::find(engine)?;
            let old = std::mem::replace(&mut self.text, text);
            let seen = self.seen();
            checker::recall(&seen, &mut services);
            let done = self.draft().and_then(|()| {
                let views = transaction::read(&engines)?;
                serve::put_in_force(&engines, &views, &services, &|| self.folder.mean()).map(drop)
            });
            if done.is_err() {
                self.text = old;
                self.folder.discard();
                return done;
            }
            self.stamp = self.folder.stamp()?;
            (self.engine, self.engines) = (engine, Rc::new(engines));
            self.wake_up();
            let seen = self.seen();
            self.take(services, &seen);
            Ok(())
        });
        if let Err(error) = read {
            log::warning!("{error}; the config from before stays in force");
        }
    }

    /// Ends a rest. What was known when it began is forgotten if it is too old by now.
    fn wake_up(&mut self) {
        let Some(since) = self.resting.take() else { return };
        let seen = Known::remembered(self.seen(), since).believed(&self.services, &[]);
        self.checked.clear();
        let services = std::mem::take(&mut self.services);
        self.take(services, &seen);
    }

    fn seen(&self) -> Vec<Seen> {
        let mut all = Vec::new();
        for (service, group) in self.services.iter().zip(&self.checked) {
            for (backend, one) in service.backends.iter().zip(&group.backends) {
                all.push(Seen {
                    bind: service.bind,
                    backend: backend.address,
                    chosen: backend.weight > 0,
                    condition: one.condition.clone(),
                    due: one.due,
                });
            }
        }
        all
    }
}

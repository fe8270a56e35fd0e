//! What is meant to be in force, followed by a running `watch`: the config of the last `start`, its own at SIGHUP, or
//! nothing after a `stop`.

use std::rc::Rc;

use super::run::Watch;
use crate::engine::{choice, transaction};
use crate::error::Error;
use crate::host::state::MEANT;
use crate::serve::{self, Config, Waiting};
use crate::service::Service;
use crate::sys::log;
use crate::sys::netlink::Addresses;
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
                let Config { text, engine, services, waiting } = serve::judged(MEANT, text)?;
                self.write_by(engine)?;
                self.wake_up();
                log::info!("took the config of the last start");
                self.text = text;
                let seen = self.seen_by(&services);
                self.take(services, waiting, &seen);
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
        let read = serve::load(self.path).and_then(|Config { text, engine, mut services, waiting }| {
            log::info!("read the config anew");
            if text == self.text && self.resting.is_none() {
                return Ok(());
            }
            let engines = choice::find(engine)?;
            let old = std::mem::replace(&mut self.text, text);
            let seen = self.seen_by(&services);
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
            let seen = self.seen_by(&services);
            for one in &waiting {
                log::info!("{one}");
            }
            self.take(services, waiting, &seen);
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
        let waiting = std::mem::take(&mut self.waiting);
        self.take(services, waiting, &seen);
        self.moved = true;
    }

    /// Gives binds that follow interfaces the addresses of now, if these may have changed since the last look.
    pub(super) fn follow_addresses(&mut self) -> Result<(), Error> {
        let follows = self.addresses.is_some() || self.blind;
        if !follows || self.resting.is_some() || !std::mem::replace(&mut self.moved, self.blind) {
            return Ok(());
        }
        let Config { services, waiting, .. } = match serve::judged(MEANT, self.text.clone()) {
            Ok(config) => config,
            // It cannot be told now.
            Err(error) => {
                self.moved = true;
                return Err(error);
            }
        };
        let is_same = |(new, old): (&Service, &Service)| new.bind == old.bind && new.name == old.name;
        if services.len() == self.services.len() && services.iter().zip(&self.services).all(is_same) {
            return Ok(());
        }
        // Many frontends may follow one interface.
        let mut said = Vec::new();
        for new in &services {
            let place = (new.follows.as_ref(), new.bind.ip());
            let known = |old: &Service| old.follows == new.follows && old.bind.ip() == new.bind.ip();
            let Some(follows) = new.follows.as_ref().filter(|_| !said.contains(&place)) else { continue };
            if !self.services.iter().any(known) {
                log::info!("{follows} has the address {} now", new.bind.ip());
                said.push(place);
            }
        }
        for one in &waiting {
            if self.services.iter().any(|old| old.name == one.service.name) {
                log::warning!("{one}");
            }
        }
        let seen = self.seen_by(&services);
        self.take(services, waiting, &seen);
        Ok(())
    }

    /// Keeps what is known of the backends of frontends that begin to wait, and asks to be told of addresses if a bind
    /// follows an interface.
    pub(super) fn wait_for(&mut self, waiting: Vec<Waiting>, services: &[Service]) {
        let follows = !waiting.is_empty() || services.iter().any(|service| service.follows.is_some());
        if !follows {
            self.addresses = None;
        } else if self.addresses.is_none() {
            self.addresses = Addresses::open().ok();
            // One may have changed before.
            self.moved = true;
        }
        self.blind = follows && self.addresses.is_none();
        let mut known = self.seen();
        known.append(&mut self.away);
        known.retain(|one| waiting.iter().any(|waiting| waiting.service.known_as() == Some(one.name.as_str())));
        (self.waiting, self.away) = (waiting, known);
    }

    /// What was seen of the backends of these services, under the binds of now.
    fn seen_by(&self, services: &[Service]) -> Vec<Seen> {
        let mut all = self.seen();
        all.extend_from_slice(&self.away);
        checker::follow(&mut all, services);
        all
    }

    fn seen(&self) -> Vec<Seen> {
        let mut all = Vec::new();
        for (service, group) in self.services.iter().zip(&self.checked) {
            for (backend, one) in service.backends.iter().zip(&group.backends) {
                all.push(Seen {
                    bind: service.bind,
                    name: service.known_as().unwrap_or_default().to_owned(),
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

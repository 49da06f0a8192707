//! Who holds a target: as long as one episode does, it is held.

use memgov_decide::decision::EpisodeId;

/// At most so many episodes at once; a further one finds the target held already and comes again with its next order. They are numbered from 1,
/// so 0 is a free place.
#[derive(Clone, Copy, Debug)]
pub struct Holders<const MOST: usize>([EpisodeId; MOST]);

impl<const MOST: usize> Default for Holders<MOST> {
    fn default() -> Self {
        Self([Self::FREE; MOST])
    }
}

impl<const MOST: usize> Holders<MOST> {
    const FREE: EpisodeId = EpisodeId(0);

    /// This episode is one of them from now on.
    pub fn add(&mut self, episode: EpisodeId) {
        if !self.has(episode)
            && let Some(free) = self.0.iter_mut().find(|h| **h == Self::FREE)
        {
            *free = episode;
        }
    }

    /// And no more; whether it was.
    pub fn remove(&mut self, episode: EpisodeId) -> bool {
        let held = self.has(episode);
        self.0.iter_mut().filter(|h| **h == episode).for_each(|h| *h = Self::FREE);
        held
    }

    /// Whether this episode is one.
    pub fn has(&self, episode: EpisodeId) -> bool {
        self.0.contains(&episode)
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.0.iter().any(|h| *h != Self::FREE)
    }
}

//! The verbs of the specification over a list of plugins.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;

use super::config::{NetworkList, Plugin, joined, raw};
use super::error::{Error, Failure};
use super::result::{self, Answer};
use super::{Attachment, Version, exec};

/// Where plugins are, and how long they may take.
#[derive(Clone, Debug)]
pub struct Plugins {
    /// Directories, the first that has a plugin counts.
    pub dirs: Vec<PathBuf>,
    /// How long a verb may take, over all plugins of a network.
    pub patience: Duration,
}

/// An attachment that GC must keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Valid {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// What a plugin is called with besides its own configuration.
#[derive(Default)]
struct Extra<'a> {
    at: Option<&'a Attachment>,
    previous: Option<&'a RawValue>,
    valid: Option<&'a [Valid]>,
}

/// A verb on its way through a list.
struct Course<'a> {
    plugins: &'a Plugins,
    network: &'a NetworkList,
    verb: &'static str,
    deadline: Instant,
}

impl Course<'_> {
    fn failed(&self, plugin: &Plugin, failure: Failure) -> Error {
        Error::Plugin { verb: self.verb, network: self.network.name.clone(), plugin: plugin.program.clone(), failure }
    }

    fn call(&self, plugin: &Plugin, extra: &Extra<'_>) -> Result<Vec<u8>, Error> {
        let failed = |failure| self.failed(plugin, failure);
        let program = self.plugins.find(&plugin.program).map_err(failed)?;
        if Instant::now() >= self.deadline {
            return Err(failed(Failure::TimedOut { after: Duration::ZERO }));
        }
        let mut environment = vec![("CNI_COMMAND", self.verb.to_owned()), ("CNI_PATH", self.plugins.path())];
        if let Some(at) = extra.at {
            let args: Vec<String> = at.args.iter().map(|(name, value)| format!("{name}={value}")).collect();
            environment.extend([
                ("CNI_CONTAINERID", at.container_id.clone()),
                ("CNI_NETNS", at.netns.clone()),
                ("CNI_IFNAME", at.interface.clone()),
                ("CNI_ARGS", args.join(";")),
            ]);
        }
        let input = self.input(plugin, extra);
        exec::run(&program, &environment, input.as_bytes(), self.deadline).map_err(failed)
    }

    /// The configuration as one call has it.
    fn input(&self, plugin: &Plugin, extra: &Extra<'_>) -> String {
        let mut config = plugin.config.clone();
        config.insert("name".into(), raw(&self.network.name.as_str().into()));
        config.insert("cniVersion".into(), raw(&self.network.version.name().into()));
        if let Some(at) = extra.at {
            let asked = at.capabilities.iter().filter(|(name, _)| plugin.capabilities.contains(*name));
            let asked: serde_json::Map<_, _> = asked.map(|(name, value)| (name.clone(), value.clone())).collect();
            if !asked.is_empty() {
                config.insert("runtimeConfig".into(), raw(&asked.into()));
            }
        }
        if let Some(previous) = extra.previous {
            config.insert("prevResult".into(), previous.to_owned());
        }
        if let Some(valid) = extra.valid {
            let list = serde_json::to_value(valid).unwrap_or_default();
            // The older name is that of the first plugins that knew it.
            config.insert("cni.dev/valid-attachments".into(), raw(&list));
            config.insert("cni.dev/attachments".into(), raw(&list));
        }
        joined(&config)
    }
}

impl Plugins {
    fn find(&self, program: &str) -> Result<PathBuf, Failure> {
        let mut paths = self.dirs.iter().map(|dir| dir.join(program));
        paths.find(|path| path.is_file()).ok_or_else(|| Failure::Missing { dirs: self.dirs.clone() })
    }

    fn path(&self) -> String {
        let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.to_string_lossy()).collect();
        dirs.join(":")
    }

    fn course<'a>(&'a self, network: &'a NetworkList, verb: &'static str) -> Course<'a> {
        Course { plugins: self, network, verb, deadline: Instant::now() + self.patience }
    }
}

impl NetworkList {
    /// ADD: attaches a pod. `alive` is asked before each plugin whether the network namespace is still the pod's. After an error [`delete`](Self::delete) has to
    /// be called, whichever plugins were.
    ///
    /// # Errors
    /// A plugin's, the first one; or nobody gave the pod an address.
    pub fn add(&self, plugins: &Plugins, at: &Attachment, alive: &dyn Fn() -> bool) -> Result<Answer, Error> {
        let course = plugins.course(self, "ADD");
        let mut previous: Option<Answer> = None;
        for plugin in &self.plugins {
            let failed = |failure| course.failed(plugin, failure);
            if !alive() {
                return Err(failed(Failure::PodEnded));
            }
            let extra = Extra { at: Some(at), previous: previous.as_ref().map(|p| &*p.raw), valid: None };
            let answer = Answer::parse(&course.call(plugin, &extra)?, self.version).map_err(failed)?;
            answer.addresses(at).map_err(failed)?;
            previous = Some(answer);
        }
        let has_address = |answer: &Answer| answer.addresses(at).is_ok_and(|found| !found.is_empty());
        previous
            .filter(has_address)
            .ok_or_else(|| Error::NoAddress { network: self.name.clone(), interface: at.interface.clone() })
    }

    /// DEL: takes a pod out, plugins in reverse order. With an empty `netns` when the pod is over. Succeeds also when there is nothing to take away.
    ///
    /// # Errors
    /// A plugin's; those before it in the list were not called, as what they hold (an address) must not go before what was built upon it. To be called again.
    pub fn delete(&self, plugins: &Plugins, at: &Attachment, previous: Option<&RawValue>) -> Result<(), Error> {
        let course = plugins.course(self, "DEL");
        let previous = previous.filter(|_| self.version >= Version::V0_4_0);
        let extra = Extra { at: Some(at), previous, valid: None };
        self.plugins.iter().rev().try_for_each(|plugin| match course.call(plugin, &extra) {
            // "Container unknown": there is nothing to clean up.
            Err(Error::Plugin { failure: Failure::Reported { code: 3, .. }, .. }) => Ok(()),
            other => other.map(drop),
        })
    }

    /// CHECK: whether all is as ADD has left it. False: this network does not check.
    ///
    /// # Errors
    /// The first plugin that is not content.
    pub fn check(&self, plugins: &Plugins, at: &Attachment, previous: &RawValue) -> Result<bool, Error> {
        if self.disable_check || self.version < Version::V0_4_0 {
            return Ok(false);
        }
        let course = plugins.course(self, "CHECK");
        let extra = Extra { at: Some(at), previous: Some(previous), valid: None };
        self.plugins.iter().try_for_each(|plugin| course.call(plugin, &extra).map(drop))?;
        Ok(true)
    }

    /// GC: has every plugin release what is of none of these attachments. False: this network does not collect.
    ///
    /// # Errors
    /// Those of all plugins: one that fails does not keep the others from it.
    pub fn gc(&self, plugins: &Plugins, valid: &[Valid]) -> Result<bool, Vec<Error>> {
        if self.disable_gc || self.version < Version::V1_1_0 {
            return Ok(false);
        }
        let course = plugins.course(self, "GC");
        let extra = Extra { valid: Some(valid), ..Extra::default() };
        let errors: Vec<Error> = self.plugins.iter().filter_map(|plugin| course.call(plugin, &extra).err()).collect();
        if errors.is_empty() { Ok(true) } else { Err(errors) }
    }

    /// STATUS: whether the network can take pods. False: this network cannot be asked; but all its plugins are there and know its version.
    ///
    /// # Errors
    /// The first plugin that is not ready.
    pub fn status(&self, plugins: &Plugins) -> Result<bool, Error> {
        self.complete(plugins)?;
        if self.version < Version::V1_1_0 {
            let (course, wanted) = (plugins.course(self, "VERSION"), self.version.name());
            for (plugin, (_, known)) in self.plugins.iter().zip(self.versions(plugins)?) {
                if !known.iter().any(|version| version == wanted) {
                    return Err(course.failed(plugin, Failure::Version { wanted, known }));
                }
            }
            return Ok(false);
        }
        let course = plugins.course(self, "STATUS");
        self.plugins.iter().try_for_each(|plugin| course.call(plugin, &Extra::default()).map(drop))?;
        Ok(true)
    }

    /// Whether all plugins are where they should be.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn complete(&self, plugins: &Plugins) -> Result<(), Error> {
        self.plugins.iter().try_for_each(|plugin| match plugins.find(&plugin.program) {
            Ok(_) => Ok(()),
            Err(failure) => Err(plugins.course(self, "find it").failed(plugin, failure)),
        })
    }

    /// VERSION: the versions that each plugin knows, in the list's order. Before ADD it is not asked: a plugin that does not know the network's version
    /// says so.
    ///
    /// # Errors
    /// A plugin's.
    pub fn versions(&self, plugins: &Plugins) -> Result<Vec<(String, Vec<String>)>, Error> {
        let course = plugins.course(self, "VERSION");
        let one = |plugin: &Plugin| {
            let out = course.call(plugin, &Extra::default())?;
            let known = result::parse_versions(&out).map_err(|failure| course.failed(plugin, failure))?;
            Ok((plugin.program.clone(), known))
        };
        self.plugins.iter().map(one).collect()
    }
}

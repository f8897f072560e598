# What containers of husk may not do, beside what their namespaces, capabilities and mounts keep from them.
profile husk-default flags=(attach_disconnected, mediate_deleted) {
  capability,
  file,
  network,
  umount,

  # Whoever is outside may signal it, and it its own kind.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=husk-default,
  ptrace (trace, read, tracedby, readby) peer=husk-default,

  deny mount,
  deny pivot_root,

  # The kernel's own memory and its switches.
  deny /proc/{kcore,kmem,mem,sysrq-trigger,timer_list,timer_stats} rwklx,
  deny /proc/{acpi,bus,fs,irq,scsi}/** wklx,
  deny /proc/sys/{abi,debug,dev,fs,vm}/** wklx,
  deny /proc/sys/kernel/{core_*,hotplug,modprobe,modules_disabled,panic*,poweroff_cmd,randomize_va_space,sysrq,yama/*} wklx,
  deny /proc/sys/user/** wklx,

  # Devices, firmware, modules and file systems of the host. The container's cgroups are below /sys/fs/cgroup.
  deny /sys/{block,bus,class,dev,devices,firmware,hypervisor,kernel,module,power}/** wklx,
  deny /sys/fs/{bpf,ext4,fuse,pstore,resctrl,selinux,smackfs,xfs}/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/{debug,security,tracing}/** rwklx,
}

# The tools of our small <nixpkgs>: store packages with real programs, copied
# from the Debian root that tests/cloud/image.sh unpacks. Their libraries stay
# in /usr/lib, which the machines of the local cloud (and a Debian 12 host)
# have; so these packages are NixOS's in shape and use, not in purity.
#
# The root is named by a string, not imported, so that evaluation stays pure;
# the list of packages, which is part of every derivation, stands for its
# content.
{ system }:
let
  recipe = builtins.hashString "sha256" (builtins.readFile ./debian.txt);

  tool =
    name: version:
    {
      programs ? name,
      links ? "",
      files ? "",
      extra ? "",
    }:
    derivation {
      name = "${name}-${version}";
      inherit system recipe programs links files extra;
      builder = "/bin/sh";
      args = [ ./copy.sh ];
      debian = "/var/lib/nixpipe-cloud/debian";
    }
    // {
      pname = name;
      inherit version;
    };

in
rec {
  bash = tool "bash" "5.2" { links = "sh=bash"; } // {
    shellPath = "/bin/bash";
  };
  bashInteractive = bash;
  dash = tool "dash" "0.5.12" { };
  fish = tool "fish" "3.6.0" {
    programs = "fish fish_indent fish_key_reader";
  } // {
    shellPath = "/bin/fish";
  };

  coreutils = tool "coreutils" "9.1" {
    programs = ''
      arch b2sum base32 base64 basename basenc cat chcon chgrp chmod chown chroot cksum
      comm cp csplit cut date dd df dir dircolors dirname du echo env expand expr factor
      false fmt fold groups head hostid id install join link ln logname ls md5sum mkdir
      mkfifo mknod mktemp mv nice nl nohup nproc numfmt od paste pathchk pinky pr printenv
      printf ptx pwd readlink realpath rm rmdir runcon seq sha1sum sha224sum sha256sum
      sha384sum sha512sum shred shuf sleep sort split stat stdbuf stty sum sync tac tail
      tee test [ timeout touch tr true truncate tsort tty uname unexpand uniq unlink users
      vdir wc who whoami yes
    '';
  };
  findutils = tool "findutils" "4.9.0" {
    programs = "find xargs";
  };
  gnugrep = tool "gnugrep" "3.8" {
    programs = "grep egrep fgrep";
  };
  gnused = tool "gnused" "4.9" { programs = "sed"; };
  gawk = tool "gawk" "5.2.1" { links = "awk=gawk"; };
  gnutar = tool "gnutar" "1.34" { programs = "tar"; };
  gzip = tool "gzip" "1.12" {
    programs = "gzip gunzip zcat";
  };
  bzip2 = tool "bzip2" "1.0.8" { links = "bunzip2=bzip2"; };
  xz = tool "xz" "5.4.1" { links = "unxz=xz"; };
  zstd = tool "zstd" "1.5.4" { links = "unzstd=zstd zstdcat=zstd zstdmt=zstd"; };
  lz4 = tool "lz4" "1.9.4" { };
  diffutils = tool "diffutils" "3.8" {
    programs = "diff cmp";
  };
  gnupatch = tool "patch" "2.7.6" { };
  less = tool "less" "590" { };
  curl = tool "curl" "7.88.1" { };
  jq = tool "jq" "1.6" { };
  rsync = tool "rsync" "3.2.7" { };
  strace = tool "strace" "6.1" { };
  socat = tool "socat" "1.7.4" { };
  attr = tool "attr" "2.5.1" {
    programs = "getfattr setfattr";
  };
  python3 = tool "python3" "3.11.2" {
    programs = "python3 python3.11";
  };
  cacert = tool "nss-cacert" "2023" {
    programs = "";
    extra = ''
      mkdir -p "$out/etc/ssl/certs"
      cat "$debian"/usr/share/ca-certificates/mozilla/*.crt > "$out/etc/ssl/certs/ca-bundle.crt"
    '';
  };
  tzdata = tool "tzdata" "2025" {
    programs = "";
    files = "usr/share/zoneinfo=share/zoneinfo";
  };
  getent = tool "getent" "2.36" { };
  ncurses = tool "ncurses" "6.4" {
    programs = "clear infocmp tput";
  };

  util-linux = tool "util-linux" "2.38.1" {
    programs = ''
      agetty blkid blockdev chrt column dmesg fallocate findmnt flock fsfreeze fstrim hexdump
      getopt ionice ipcs logger losetup lsblk lscpu lslocks lsns mkswap more mount
      mountpoint namei nsenter partx prlimit rename.ul rev runuser setpriv setsid swapoff
      swapon taskset umount unshare wall wdctl whereis wipefs
    '';
  };
  e2fsprogs = tool "e2fsprogs" "1.47.0" {
    programs = "chattr dumpe2fs e2fsck fsck.ext4 lsattr mke2fs mkfs.ext4 resize2fs tune2fs";
  };
  procps = tool "procps" "4.0.2" {
    programs = "free kill pgrep pkill pmap ps sysctl tload top uptime vmstat w watch";
  };
  psmisc = tool "psmisc" "23.6" {
    programs = "fuser killall pstree";
  };
  hostname = tool "hostname" "3.23" { };
  iproute2 = tool "iproute2" "6.1.0" {
    programs = "bridge ip ss tc";
  };
  iputils = tool "iputils" "20221126" { programs = "ping"; };
  iptables = tool "iptables" "1.8.9" {
    programs = "xtables-nft-multi";
    links = "iptables=xtables-nft-multi ip6tables=xtables-nft-multi";
  };
  nftables = tool "nftables" "1.0.6" { programs = "nft"; };
  kmod = tool "kmod" "30" {
    programs = "kmod depmod insmod lsmod modinfo modprobe rmmod";
  };

  shadow = tool "shadow" "4.13" {
    programs = "login nologin passwd chage";
  };
  su = tool "su" "2.38.1" { };
  sudo = tool "sudo" "1.9.13" {
    programs = "sudo sudoedit visudo";
  };
  doas = tool "doas" "6.8.2" { };
  openssh = tool "openssh" "9.2p1" {
    programs = "scp sftp ssh ssh-add ssh-agent ssh-copy-id ssh-keygen ssh-keyscan sshd";
    files = ''
      usr/lib/openssh/sftp-server=libexec/sftp-server
      usr/lib/openssh/ssh-keysign=libexec/ssh-keysign
    '';
  };

  nix = tool "nix" "2.8.0" {
    programs = ''
      nix nix-build nix-channel nix-collect-garbage nix-copy-closure nix-daemon nix-env
      nix-hash nix-instantiate nix-prefetch-url nix-shell nix-store
    '';
  };

  dbus = tool "dbus" "1.14.10" {
    programs = "dbus-daemon dbus-monitor dbus-send";
  };

  # PID 1 runs from the store, as on NixOS (`init` starts lib/systemd/systemd);
  # its helpers are found under /usr/lib/systemd, where Debian's build looks.
  systemd = tool "systemd" "252.39" {
    programs = ''
      busctl halt hostnamectl journalctl localectl loginctl poweroff reboot shutdown
      systemctl systemd-analyze systemd-ask-password systemd-cat systemd-cgls
      systemd-cgtop systemd-creds systemd-delta systemd-detect-virt systemd-escape
      systemd-id128 systemd-inhibit systemd-machine-id-setup systemd-mount systemd-notify
      systemd-path systemd-run systemd-socket-activate systemd-stdio-bridge
      systemd-tmpfiles systemd-tty-ask-password-agent timedatectl
    '';
    links = "systemd-umount=systemd-mount";
    files = "usr/lib/systemd/systemd=lib/systemd/systemd";
  };

  # GRUB's environment block is real (grub-editenv); the loader that reads it
  # is tests/cloud/machine.py.
  grub2 = tool "grub" "2.06" {
    programs = "grub-editenv grub-script-check";
    extra = ''
      cp ${./grub-reboot.sh} "$out/bin/grub-reboot"
      chmod +x "$out/bin/grub-reboot"
    '';
  };
}

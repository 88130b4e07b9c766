# Stand-ins for kernels: a file and a folder with a version. See nixos/modules/boot/kernel.nix.
{ lib, pkgs }:
let
  kernel = lib.makeOverridable ({ version }: pkgs.runCommandLocal "linux-${version}" {
    inherit version;
    passthru.modDirVersion = version;
  } ''
    mkdir -p $out/lib/modules/$version
    echo "Linux $version" > $out/bzImage
    ln -s bzImage $out/Image
  '');
  linuxPackagesFor = kernel: {
    inherit kernel;
    kernelModules = pkgs.runCommandLocal "kernel-modules-${kernel.version}" { } ''
      mkdir -p $out/lib/modules
      echo "${kernel.version}" > $out/lib/modules/version
    '';
  };
in
rec {
  inherit linuxPackagesFor;
  linux_6_12 = kernel { version = "6.12.57"; };
  linux_6_18 = kernel { version = "6.18.3"; };
  linux = linux_6_12;
  linux_latest = linux_6_18;
  linuxPackages = linuxPackagesFor linux;
  linuxPackages_6_12 = linuxPackagesFor linux_6_12;
  linuxPackages_6_18 = linuxPackagesFor linux_6_18;
  linuxPackages_latest = linuxPackagesFor linux_latest;
}

/*
 * The bare program's network: a veth pair between a bridge and a pod's network namespace, addresses and default routes of both families,
 * and a port of the host that leads to the pod, in the maps of an nftables table. bench/network.py makes bridge and table (`bare0`,
 * `inet bare`). It is the yardstick for what husk's bridge adds to the start of a pod; included by bare.c.
 */
#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>

/* <linux/netfilter.h> and <arpa/inet.h> cannot be included together. */
#define NFPROTO_INET_ 1

#define LINK_BRIDGE "bare0"
#define LINK_TABLE "bare"
#define LINK_PORT 5000
/* Ports of the host begin here, one a pod. */
#define LINK_HOST_PORT 20000

struct batch {
    char bytes[4096];
    size_t length;
    uint32_t messages;
    struct nlmsghdr *last;
};

static void link_put(struct batch *batch, const void *bytes, size_t length)
{
    memcpy(batch->bytes + batch->length, bytes, length);
    memset(batch->bytes + batch->length + length, 0, NLMSG_ALIGN(length) - length);
    batch->length += NLMSG_ALIGN(length);
    if (batch->last)
        batch->last->nlmsg_len = batch->bytes + batch->length - (char *)batch->last;
}

static void link_message(struct batch *batch, int type, int flags, const void *header, size_t length)
{
    batch->last = (void *)(batch->bytes + batch->length);
    struct nlmsghdr head = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = ++batch->messages};
    link_put(batch, &head, sizeof head);
    link_put(batch, header, length);
}

static void link_attr(struct batch *batch, int type, const void *value, size_t length)
{
    struct nlattr attr = {.nla_len = sizeof attr + length, .nla_type = type};
    link_put(batch, &attr, sizeof attr);
    link_put(batch, value, length);
}

static void link_text(struct batch *batch, int type, const char *text) { link_attr(batch, type, text, strlen(text) + 1); }

static struct nlattr *link_open(struct batch *batch, int type)
{
    struct nlattr *attr = (void *)(batch->bytes + batch->length);
    link_attr(batch, type | NLA_F_NESTED, "", 0);
    return attr;
}

static void link_close(struct batch *batch, struct nlattr *attr)
{
    attr->nla_len = batch->bytes + batch->length - (char *)attr;
}

static int link_socket(int protocol)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    OR_DIE(fd, "netlink socket");
    return fd;
}

/* Sends all messages at once; all that ask for an answer must have a good one. */
static void link_send(int fd, struct batch *batch, int answers, const char *what)
{
    OR_DIE(send(fd, batch->bytes, batch->length, 0), what);
    char piece[8192];
    while (answers > 0) {
        int length = recv(fd, piece, sizeof piece, 0);
        OR_DIE(length, what);
        for (struct nlmsghdr *head = (void *)piece; NLMSG_OK(head, length); head = NLMSG_NEXT(head, length)) {
            struct nlmsgerr *said = NLMSG_DATA(head);
            if (head->nlmsg_type != NLMSG_ERROR)
                continue;
            errno = -said->error;
            if (said->error)
                die(what);
            answers--;
        }
    }
}

static unsigned link_index(const char *name)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, sizeof request.ifr_name - 1);
    OR_DIE(ioctl(fd, SIOCGIFINDEX, &request), name);
    close(fd);
    return request.ifr_ifindex;
}

static void link_veth(int host, int netns, int number)
{
    struct batch batch = {0};
    struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, peer = {0};
    uint32_t mtu = 1500, master = link_index(LINK_BRIDGE);
    unsigned char mac[6] = {0x0a, 0x58, 0, 0, number >> 8, number};
    link_message(&batch, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
    link_text(&batch, IFLA_IFNAME, path_of("bv%d", number));
    link_attr(&batch, IFLA_MTU, &mtu, sizeof mtu);
    link_attr(&batch, IFLA_MASTER, &master, sizeof master);
    struct nlattr *info = link_open(&batch, IFLA_LINKINFO);
    link_text(&batch, IFLA_INFO_KIND, "veth");
    struct nlattr *data = link_open(&batch, IFLA_INFO_DATA), *other = link_open(&batch, VETH_INFO_PEER);
    link_put(&batch, &peer, sizeof peer);
    link_text(&batch, IFLA_IFNAME, "eth0");
    link_attr(&batch, IFLA_MTU, &mtu, sizeof mtu);
    link_attr(&batch, IFLA_ADDRESS, mac, sizeof mac);
    link_attr(&batch, IFLA_NET_NS_FD, &netns, sizeof netns);
    link_close(&batch, other);
    link_close(&batch, data);
    link_close(&batch, info);
    link_send(host, &batch, 1, "make a veth pair");
}

/* A pod's address; its network's first one is the bridge's. */
static size_t link_address(int family, int number, unsigned char *address)
{
    memset(address, 0, 16);
    inet_pton(family, family == AF_INET ? "10.200.0.0" : "fdba::", address);
    size_t length = family == AF_INET ? 4 : 16;
    address[length - 2] = number >> 8;
    address[length - 1] = number;
    return length;
}

static void link_inside(int pod, int number)
{
    struct batch batch = {0};
    uint32_t eth0 = link_index("eth0"), flags = IFA_F_NODAD;
    unsigned char address[16];
    static const int families[] = {AF_INET, AF_INET6};
    for (int i = 0; i < 2; i++) {
        struct ifaddrmsg header = {.ifa_family = families[i], .ifa_prefixlen = i ? 64 : 16, .ifa_index = eth0};
        size_t length = link_address(families[i], number, address);
        link_message(&batch, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &header, sizeof header);
        link_attr(&batch, IFA_LOCAL, address, length);
        link_attr(&batch, IFA_ADDRESS, address, length);
        if (i)
            link_attr(&batch, IFA_FLAGS, &flags, sizeof flags);
    }
    struct ifinfomsg up = {.ifi_index = eth0, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    link_message(&batch, RTM_SETLINK, NLM_F_ACK, &up, sizeof up);
    for (int i = 0; i < 2; i++) {
        struct rtmsg header = {.rtm_family = families[i], .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC, .rtm_type = RTN_UNICAST};
        size_t length = link_address(families[i], 1, address);
        link_message(&batch, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &header, sizeof header);
        link_attr(&batch, RTA_GATEWAY, address, length);
        link_attr(&batch, RTA_OIF, &eth0, sizeof eth0);
    }
    link_send(pod, &batch, 5, "give the pod its addresses");
}

/* Adds the pod's port to both maps, or removes it, in one transaction. */
static void link_port(int filter, int number, int add)
{
    struct batch batch = {0};
    struct nfgenmsg all = {.res_id = htons(NFNL_SUBSYS_NFTABLES)}, inet = {.nfgen_family = NFPROTO_INET_};
    int type = NFNL_SUBSYS_NFTABLES << 8 | (add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM);
    int host_port = LINK_HOST_PORT + number;
    unsigned char key[8] = {IPPROTO_TCP, 0, 0, 0, host_port >> 8, host_port}, value[20];
    link_message(&batch, NFNL_MSG_BATCH_BEGIN, 0, &all, sizeof all);
    for (int i = 0; i < 2; i++) {
        size_t length = link_address(i ? AF_INET6 : AF_INET, number, value);
        memcpy(value + length, (unsigned char[4]){LINK_PORT >> 8, LINK_PORT & 255}, 4);
        link_message(&batch, type, NLM_F_ACK | (add ? NLM_F_CREATE : 0), &inet, sizeof inet);
        link_text(&batch, NFTA_SET_ELEM_LIST_TABLE, LINK_TABLE);
        link_text(&batch, NFTA_SET_ELEM_LIST_SET, i ? "ports6" : "ports4");
        struct nlattr *list = link_open(&batch, NFTA_SET_ELEM_LIST_ELEMENTS), *one = link_open(&batch, 1);
        struct nlattr *part = link_open(&batch, NFTA_SET_ELEM_KEY);
        link_attr(&batch, NFTA_DATA_VALUE, key, sizeof key);
        link_close(&batch, part);
        if (add) {
            part = link_open(&batch, NFTA_SET_ELEM_DATA);
            link_attr(&batch, NFTA_DATA_VALUE, value, length + 4);
            link_close(&batch, part);
        }
        link_close(&batch, one);
        link_close(&batch, list);
    }
    link_message(&batch, NFNL_MSG_BATCH_END, 0, &all, sizeof all);
    link_send(filter, &batch, 2, "change the ports");
}

/* Links the pod whose network namespace is that of this process to the bridge. */
static void link_pod(pid_t pod, int number, int port)
{
    int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), netns = open(path_of("/proc/%d/ns/net", pod), O_RDONLY | O_CLOEXEC);
    OR_DIE(own, "own network namespace");
    OR_DIE(netns, "the pod's network namespace");
    int host = link_socket(NETLINK_ROUTE);
    link_veth(host, netns, number);
    OR_DIE(setns(netns, CLONE_NEWNET), "enter the pod's network namespace");
    int inside = link_socket(NETLINK_ROUTE);
    link_inside(inside, number);
    OR_DIE(setns(own, CLONE_NEWNET), "leave the pod's network namespace");
    if (port) {
        int filter = link_socket(NETLINK_NETFILTER);
        link_port(filter, number, 1);
        close(filter);
    }
    close(own), close(netns), close(host), close(inside);
}

static void unlink_port(int number)
{
    int filter = link_socket(NETLINK_NETFILTER);
    link_port(filter, number, 0);
    close(filter);
}
